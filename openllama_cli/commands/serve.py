"""`olc serve`: a warm model behind HTTP, for OpenAI's clients, a page in the browser, and olc's other commands."""

from typing import TYPE_CHECKING

import click

from openllama_cli.commands.shared import shell_completion as suggest
from openllama_cli.commands.shared.checks import report_differing, verdict
from openllama_cli.commands.shared.model import load_model, open_model
from openllama_cli.commands.shared.options import model_options
from openllama_cli.errors import Terminated
from openllama_cli.models.loading.ranks import one_process_only
from openllama_cli.models.opened import refuse_quantized
from openllama_cli.models.spec import ModelSpec
from openllama_cli.terminal.streams import message, note, notice

if TYPE_CHECKING:
    from openllama_cli.api import Model
    from openllama_cli.serve.guard import Entry

_PROBES = ("/health", "/metrics")

EXAMPLES = """\b
Examples:
  olc serve
  olc serve -m 3b-v2 --quantize int8 --port 8000
  olc serve -m 3b-v2 --always-bos
  olc serve -m 3b-v2 --adapter ./my-lora
  olc serve -m 3b-v2 --host 0.0.0.0 --api-key-file key.txt
  curl http://127.0.0.1:8080/v1/completions -H "Content-Type: application/json" -d '{"prompt": "The largest animal is"}'
"""


@click.command(epilog=EXAMPLES)
@click.option("--host", default="127.0.0.1", show_default=True, metavar="ADDRESS", help="Address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8080,
    show_default=True,
    metavar="PORT",
    help="Port to listen on; 0 is any free one.",
)
@click.option(
    "--max-rows",
    type=click.IntRange(1, 1024),
    metavar="N",
    help="Completions at a time; others wait.  [default: as many as memory has room for]",
)
@click.option(
    "--api-key-file",
    metavar="FILE",
    help="File with a key that every request must bring; required to listen beyond this computer.",
    shell_complete=suggest.files,
)
@click.option(
    "--allow-origin",
    "origins",
    multiple=True,
    metavar="URL",
    help="Let pages of this origin use the server from a browser; may be given several times.",
)
@click.option(
    "--drain",
    type=click.FloatRange(0, 86400),
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    help="After SIGTERM or Ctrl-C: how long running completions may take to finish.",
)
@click.option(
    "--always-bos",
    is_flag=True,
    help="Put BOS in front of prompts of token ids that lack it; no answer shows it (for lm-evaluation-harness).",
)
@click.option(
    "--check",
    "checking",
    is_flag=True,
    help="Compare what the server answers with model.generate and a full forward pass, and end; exit 1 if they differ.",
)
@model_options
def command(
    host: str,
    port: int,
    max_rows: int | None,
    api_key_file: str | None,
    origins: tuple[str, ...],
    drain: float,
    always_bos: bool,
    checking: bool,
    spec: ModelSpec,
) -> None:
    """Keep a model loaded and answer over HTTP: OpenAI's completions, a playground page, and instant `olc complete`.

    POST /v1/completions takes OpenAI's whole request, with echo and log-probabilities. GET / is the playground. While it runs,
    `olc complete` of the same model is answered by it and need not load anything.
    """
    from openllama_cli.api import Model
    from openllama_cli.serve.listen import exit_code
    from openllama_cli.serve.run import Settings, listening, read_key, serve
    from openllama_cli.terminal.views.serve import request_line, show_started

    key = None if api_key_file is None else read_key(api_key_file)
    settings = Settings(host, port, max_rows, key, tuple(origins), drain, always_bos)
    if checking:
        _check(spec)
        return
    with listening(settings) as listener:
        opened = open_model(spec)

        def load() -> "Model":
            return Model(load_model(opened, spec), notice=note)

        def answered(entry: "Entry") -> None:
            if entry.path in _PROBES and (entry.status == 200 or entry.code == "loading"):
                return  # Asked every few seconds by whoever watches over the server.
            message(
                request_line(
                    entry.method,
                    entry.path,
                    entry.status,
                    entry.code,
                    prompt=entry.prompt_tokens,
                    completion=entry.completion_tokens,
                    seconds=entry.seconds,
                )
            )

        signals = serve(
            listener,
            opened,
            spec,
            settings,
            load,
            started=lambda started: show_started(
                started.url,
                model=started.model.name,
                precision=started.model.loaded.precision,
                device=started.model.loaded.device,
                max_rows=started.max_rows,
                local=None if started.local is None else str(started.local),
                key_file=api_key_file,
            ),
            answered=answered,
            log=notice,
        )
    code = exit_code(signals)
    if code == 130:
        raise KeyboardInterrupt
    if code == 143:
        raise Terminated


def _check(spec: ModelSpec) -> None:
    """Report the comparison for every prompt. Raises OlcError if one differs in float32."""
    from openllama_cli.api import Model
    from openllama_cli.serve.check import check
    from openllama_cli.terminal.tables import table

    one_process_only("--check")
    refuse_quantized(spec, "--check")
    opened = open_model(spec)
    found = check(lambda: Model(load_model(opened, spec), notice=note), notice)
    table(
        ["prompt", "streamed", "tokens", "against model.generate", "largest logprob difference"],
        [
            [
                one.text,
                "yes" if one.streamed else "no",
                str(len(one.check.tokens)),
                verdict(one.check),
                f"{max(one.check.logprob_difference, one.prompt_difference):.1e}",
            ]
            for one in found
        ],
        right=["tokens"],
    )
    report_differing(sum(not one.same for one in found), len(found), found[0].dtype)
