"""`olc generate`: the decode loop exposed. Several prompts, log-probabilities, a check and a trace."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from openllama_cli.commands.shared import shell_completion as suggest
from openllama_cli.commands.shared.checks import report_differing, verdict
from openllama_cli.commands.shared.few_shot import (
    ExampleOptions,
    example_options,
    fitted,
    show_prompt_option,
    show_prompts,
    with_template,
)
from openllama_cli.commands.shared.generating import GeneratedRow, loaded_rows, served_rows
from openllama_cli.commands.shared.model import load_model, open_model
from openllama_cli.commands.shared.options import (
    GroupedCommand,
    escape_option,
    model_options,
    pair_option,
    svg_option,
    template_option,
)
from openllama_cli.commands.shared.pictures import save, writable
from openllama_cli.commands.shared.prompt_input import hint_escape, read_prompts, unescape_stops
from openllama_cli.commands.shared.sampling.hints import hint_ends, hint_prompt
from openllama_cli.commands.shared.sampling.options import sampling_options
from openllama_cli.commands.shared.server import ServerChoice, recorded, server_options
from openllama_cli.errors import UsageError
from openllama_cli.generation.constraints.config import told
from openllama_cli.generation.decode.config import Boundary, SamplingConfig, choose_sampling, flag_of
from openllama_cli.generation.text.token_ids import resolve
from openllama_cli.models.loading.ranks import one_process_only
from openllama_cli.models.opened import check_context, refuse_quantized
from openllama_cli.models.spec import ModelSpec
from openllama_cli.serve.client.asked import Asked
from openllama_cli.terminal.streams import is_terminal, note, out, out_json

if TYPE_CHECKING:
    from openllama_cli.api import Run

# Those of the published Llama scripts.
DEFAULTS = SamplingConfig(max_tokens=64, temperature=0.6, top_p=0.9)
TRACED = 5

EXAMPLES = """\b
Examples:
  olc generate "The largest animal is" "The capital of France is"
  olc generate -e "Q: What is the largest animal?\\nA:" --stop "\\n"
  olc generate --prompts-file prompts/examples/en.txt --temperature 0 --json
  olc generate "The largest animal is" --temperature 0 --trace
  olc generate "The largest animal is" --seed 1 --top-k 4 --frequency-penalty 1 --ban blue --trace
  olc generate "The largest animal is" --check --dtype float32
  olc generate "The largest animal is" --logprobs --echo --json
  olc generate "The largest animal is" --svg shades.svg
  olc generate -t qa "What is the capital of France?" "Which planet is the largest?" --temperature 0
  olc generate -t topic --examples prompts/examples/topic.csv --shots 2 --show-prompt "The match ended 2 to 1."
"""


class _Generate(GroupedCommand):
    """`--logprobs 3`, as in `olc complete`, would make a prompt of the number."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        options = args[: args.index("--")] if "--" in args else args
        for option, value in pairwise(options):
            if option == "--logprobs" and value.isdecimal():
                raise UsageError(
                    f"--logprobs takes no number here, and {value} would be a prompt",
                    f"leave it out: every token gets its log-probability; a prompt {value} goes after --",
                )
        return super().parse_args(ctx, args)


@click.command(cls=_Generate, epilog=EXAMPLES)
@click.argument("prompts", nargs=-1, metavar="[PROMPT]...")
@click.option(
    "-f",
    "--prompts-file",
    "--file",
    "file",
    metavar="FILE",
    help="File with one prompt per line; - is stdin. (The -f of `olc complete` is one prompt.)",
    shell_complete=suggest.files,
)
@template_option("Prompt template that each PROMPT fills: qa, classify, …")
@pair_option("-p", "values", multiple=True, metavar="NAME VALUE", help="Template variable; VALUE - is stdin.")
@example_options
@show_prompt_option
@escape_option("PROMPT, --stop and --ban")
@click.option("--logprobs", is_flag=True, help="Report the log-probability of every token.")
@click.option("--echo", is_flag=True, help="Return the prompt's tokens before the completion's.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object with texts and token ids.")
@click.option(
    "--check", "checking", is_flag=True, help="Compare with model.generate and a full forward pass; exit 1 if they differ."
)
@click.option(
    "--trace", is_flag=True, help="Print every decode step: what each processor did to the candidates, and the token taken."
)
@svg_option("Save the completions, shaded by probability, as an SVG image.")
@sampling_options(DEFAULTS)
@model_options
@server_options
def command(
    prompts: tuple[str, ...],
    file: str | None,
    template: str | None,
    values: tuple[tuple[str, str], ...],
    examples: ExampleOptions,
    show_prompt: bool,
    escape: bool,
    logprobs: bool,
    echo: bool,
    as_json: bool,
    checking: bool,
    trace: bool,
    svg: str | None,
    given: dict[str, Any],
    spec: ModelSpec,
    server: ServerChoice,
) -> None:
    """Complete several PROMPTs in one batch, by the contract of the published Llama `generate`.

    On a terminal each token is shaded by its probability. --trace shows what the decode loop does, and --check whether it is
    right. --temperature 0 is greedy.
    """
    if svg and (as_json or trace):
        raise UsageError("--svg cannot be combined with --json or --trace", "give one of them")
    if checking and (trace or svg):
        raise UsageError("--check cannot be combined with --trace or --svg", "leave out --check, or --trace and --svg")
    if svg is not None:
        writable(svg)
    if checking:
        one_process_only("--check")
        refuse_quantized(spec, "--check")
        _refuse_unchecked(given)
    if escape:
        unescape_stops(given)
    sources = read_prompts(prompts, file, template, values, examples, escape=escape)
    # Log-probabilities are always computed: they shade the tokens.
    settings = {"max_tokens": DEFAULTS.max_tokens, "temperature": DEFAULTS.temperature, "top_p": DEFAULTS.top_p}
    wanted = with_template(given, sources[0].template)
    settings |= wanted
    sampling = choose_sampling({**settings, "logprobs": 0})
    if not escape:
        hint_escape(prompts)
    server.refuse("--check" if checking else "--trace" if trace else None)
    texts, folder = [source.text for source in sources], None
    few_shot = [source.few_shot for source in sources if source.few_shot is not None]
    if few_shot and server.address is None:
        cut, folder = fitted(few_shot, spec, sampling.max_tokens)
        texts = [prompt.text for prompt in cut]
    if show_prompt:
        show_prompts(texts, as_json=as_json)
        return
    asked = Asked(texts, replace(sampling, logprobs=None), echo=echo, fit=True, tokens=True, by_place=True, record=as_json)
    answer = lambda found: (*served_rows(found, asked), found.model)  # noqa: E731
    made, folder = server.answer(spec, answer, folder, able=not (checking or trace))
    if made is None:
        opened = open_model(spec, folder)
        hint_prompt(texts, opened.tokenizer, healed=sampling.heal)
        sampling = resolve(sampling, opened.tokenizer, opened.checkpoint.shape.vocab)
        tokens = [opened.tokenizer.encode(text) for text in texts]
        for ids in tokens:
            check_context(opened, len(ids), sampling.max_tokens if checking else 0)
        loaded = load_model(opened, spec)
        from openllama_cli.api import Model, Run

        model = Model(loaded, notice=note)
        own: dict[str, Any] = sources[0].options
        if checking:
            _check(Run(model, tokens, SamplingConfig(sampling.max_tokens, logprobs=0)), texts, own, as_json=as_json)
            return
        if trace:
            _trace(Run(model, tokens, sampling, batch_size=1, trace=TRACED), texts, own, as_json=as_json)
            return
        run = Run(model, tokens, sampling, score_prompt=echo).finish()
        made = loaded_rows(run, texts, echo=echo), _record(run, texts, echo=echo) if as_json else {}, model.name
    rows, told_by, name = made
    if as_json:
        # They are always computed.
        own = {**sources[0].options, "logprobs": 0 if logprobs else None}
        olc = recorded(told_by, "generate", own)
        documents = [row.document(echo=echo, logprobs=logprobs) | told(sampling.constraint, row.text) for row in rows]
        out_json({"model": name, "seed": sampling.seed, "completions": documents, **({"olc": olc} if olc else {})})
    else:
        _show(rows, name, svg=svg, echo=echo, logprobs=logprobs)
    reasons, ended = [row.finish_reason for row in rows], [row.text for row in rows]
    hint_ends(sampling, reasons, ended, chosen="max_tokens" in wanted, room=min(row.room for row in rows))


def _show(rows: Sequence[GeneratedRow], name: str, *, svg: str | None, echo: bool, logprobs: bool) -> None:
    import sys

    from openllama_cli.terminal.streams import stdout_console
    from openllama_cli.terminal.tables import table
    from openllama_cli.terminal.views import generate as view

    shades = [(row.prompt, [view.Shaded(*piece) for piece in row.pieces()]) for row in rows]
    if svg is not None:
        save(Path(svg), view.svg(shades, title=f"olc generate · {name}"))
        note(f"wrote {svg}")
    terminal = is_terminal(sys.stdout)
    for (text, pieces), row in zip(shades, rows, strict=True):
        if terminal:
            stdout_console().print(view.shaded_text(text, pieces))
        else:
            out((text if echo else "") + row.text + "\n")
        if logprobs:
            entries = zip(row.tokens, pieces, strict=False)
            table(
                ["token", "text", "logprob"],
                [[str(token.id), piece.text, f"{token.logprob:.4f}"] for token, piece in entries],
                right=["token", "logprob"],
            )
    if terminal:
        view.show_legend()


def _record(run: "Run", texts: Sequence[str], **options: Any) -> dict[str, Any]:
    """The `olc` object of a run that has ended. options: the command's own."""
    from openllama_cli.records.record import record

    return {"record": record(run, texts, "generate", "loop", **options)}


def _trace(run: "Run", texts: Sequence[str], options: Mapping[str, Any], *, as_json: bool) -> None:
    """Print the steps of one prompt after another (a batch size of 1); the tokens are those of a larger batch.

    options: the command's own, for the record.
    """
    from openllama_cli.generation.text.completion import trace_document
    from openllama_cli.terminal.views import trace as view

    tokenizer = run.model.tokenizer
    traces: list[dict[str, Any]] = [{"prompt": text, "text": "", "finish_reason": None, "steps": []} for text in texts]
    for step in run.steps():
        steps, row = traces[step.row]["steps"], run.rows[step.row]
        if step.prefilled and not as_json:
            view.begin(texts[step.row])
        if step.trace is not None:
            document = trace_document(step.trace, len(row.prompt) + len(steps), tokenizer)
            steps.append(document)
            if not as_json:
                view.show(document)
        if step.finish_reason is not None:
            traces[step.row] |= {"text": row.text, "finish_reason": step.finish_reason}
            if not as_json:
                note(f"stopped by {_ENDS[step.finish_reason]}")
    if as_json:
        olc = _record(run, texts, echo=False, trace=TRACED, **options)
        out_json({"model": run.model.name, "seed": run.sampling.seed, "traces": traces, "olc": olc})


_ENDS = {
    "eos": "the model (EOS)",
    "stop": "a stop string or token, or as the match is complete",
    "length": "--max-tokens",
    "context": "the model's context",
    "repetition": "the loop guard",
    **dict.fromkeys(get_args(Boundary), "--stop-at"),
}


# What greedy decoding does not look at, and how much of it there is.
_CHECKED = ("max_tokens", "temperature", "top_p", "top_k", "min_p", "seed")


def _refuse_unchecked(given: Mapping[str, Any]) -> None:
    """Raise UsageError for an option that would change the text, which --check would leave aside."""
    flag = next((flag_of(name) for name in given if name not in _CHECKED), None)
    if flag is not None:
        cause = f"--check compares greedy decoding as it is, without {flag}"
        raise UsageError(cause, f"leave out {flag}, or --check", code="check_option")


def _check(run: "Run", texts: Sequence[str], options: Mapping[str, Any], *, as_json: bool) -> None:
    """Run greedily, and report the comparison for every prompt. Raises OlcError if one differs in float32.

    options: the command's own, for the record.
    """
    from openllama_cli.generation.decode.reference import compare
    from openllama_cli.generation.decode.request import Request
    from openllama_cli.terminal.tables import table

    loaded, tokenizer = run.finish().model.loaded, run.model.tokenizer
    assert loaded.model is not None, "--check refuses --quantize"
    checks = []
    for number, row in enumerate(run.rows):
        request = Request(number, row.prompt, run.sampling, eos=tokenizer.eos_ids, pieceless=tokenizer.pieceless)
        checks.append(compare(loaded.model, loaded.input_device, request, row.scored))
    dtype = str(loaded.dtype).removeprefix("torch.")
    if as_json:
        documents = [{"prompt": texts[one.row], "same": one.same, **asdict(one)} for one in checks]
        for document in documents:
            del document["row"]
        olc = _record(run, texts, echo=False, check=True, **options)
        out_json({"model": run.model.name, "dtype": dtype, "checks": documents, "olc": olc})
    else:
        rows = [[texts[one.row], str(len(one.tokens)), verdict(one), f"{one.logprob_difference:.1e}"] for one in checks]
        table(["prompt", "tokens", "against model.generate", "largest logprob difference"], rows, right=["tokens"])
    report_differing(sum(not one.same for one in checks), len(checks), dtype)
