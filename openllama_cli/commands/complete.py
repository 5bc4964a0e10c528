"""`olc complete`: one prompt, completed as it streams."""

import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from typing import TYPE_CHECKING, Any

import click

from openllama_cli.commands.shared.annotations import PipelineOptions, completions_json, pipeline_options, show_completions
from openllama_cli.commands.shared.model import load_model, open_model
from openllama_cli.commands.shared.options import escape_option, file_option, model_options, sampling_options, template_option
from openllama_cli.commands.shared.prompt_input import hint_escape, read_prompt, unescape_stops
from openllama_cli.errors import UsageError
from openllama_cli.generation.decode.config import SamplingConfig
from openllama_cli.generation.session import describe
from openllama_cli.models.loading.ranks import one_process_only
from openllama_cli.models.opened import check_context, refuse_quantized
from openllama_cli.models.spec import ModelSpec
from openllama_cli.terminal.streams import note, out_json
from openllama_cli.terminal.views.completion import CompletionWriter, show_stats

if TYPE_CHECKING:
    from openllama_cli.generation.text.completion import Timings
    from openllama_cli.generation.text.stream import TextStep
    from openllama_cli.models.loading.load import LoadedModel
    from openllama_cli.prompt_templates import PromptTemplate

EXAMPLES = """\b
Examples:
  olc complete "Q: What is the largest animal?"
  olc complete -e "Q: What is the largest animal?\\nA:" --stop "\\n"
  cat notes.txt | olc complete -t summarize
  olc complete -t qa -p question "What is the capital of France?"
  olc complete "The largest animal is" --temperature 0.8 --seed 7
  olc complete "The largest animal is" --json --logprobs 3 | jq .
"""


@click.command(epilog=EXAMPLES)
@click.argument("prompt", required=False)
@file_option("The prompt is this file's text, byte for byte; - is stdin.")
@template_option("Fill a prompt template: qa, classify, summarize, …")
@click.option("-p", "values", nargs=2, multiple=True, metavar="NAME VALUE", help="A template variable; VALUE - is stdin.")
@escape_option("PROMPT and --stop")
@click.option("--echo", is_flag=True, help="Put the prompt in front of the completion.")
@click.option("--logprobs", type=int, metavar="K", help="With --json: log-probabilities and the K likeliest tokens.")
@click.option("--num-samples", type=click.IntRange(min=1), default=1, metavar="N", help="Complete the prompt N times.")
@click.option("--json", "as_json", is_flag=True, help="One OpenAI text_completion object.")
@click.option("--no-stream", is_flag=True, help="Write the completion once it is whole.")
@click.option("--stats", is_flag=True, help="Times and speeds, on stderr.")
@click.option(
    "--engine",
    type=click.Choice(["loop", "transformers"]),
    default="loop",
    show_default=True,
    help="olc's decode loop, or model.generate, which it is compared with.",
)
@click.option(
    "--speculate",
    type=click.IntRange(0, 64),
    default=0,
    metavar="N",
    help="Guess up to N tokens from the text itself and check them at once; for summaries and code.",
)
@click.option("--annotate", is_flag=True, help="Add what spaCy finds in the completion; see `olc annotate --help`.")
@pipeline_options
@sampling_options(SamplingConfig())
@model_options
def command(
    prompt: str | None,
    file: str | None,
    template: str | None,
    values: tuple[tuple[str, str], ...],
    escape: bool,
    echo: bool,
    logprobs: int | None,
    num_samples: int,
    as_json: bool,
    no_stream: bool,
    stats: bool,
    engine: Any,
    speculate: int,
    annotate: bool,
    chosen: PipelineOptions,
    given: dict[str, Any],
    spec: ModelSpec,
) -> None:
    r"""Complete PROMPT, streaming the text as it comes.

    Without PROMPT, or with -, the prompt is read from stdin. Greedy and 64 tokens unless told otherwise. The model is
    --model, OLC_MODEL, the one set with `olc models default`, or a small built-in demo.
    """
    if logprobs is not None and not as_json:
        raise UsageError("--logprobs is reported in JSON only", "add --json")
    if speculate and engine == "transformers":
        raise UsageError("--speculate is part of olc's own loop", "leave --engine transformers out")
    if chosen.given and not annotate:
        raise UsageError(f"{chosen.given} is for annotations", "add --annotate")
    if engine == "transformers":
        refuse_quantized(spec, "--engine transformers")
    if escape:
        unescape_stops(given)
    if engine == "transformers":
        one_process_only("--engine transformers")
    source = read_prompt(prompt, file, template, values, escape=escape)
    if prompt is not None and not escape:
        hint_escape([prompt])
    sampling = _sampling(given, source.template, samples=num_samples, logprobs=logprobs)
    opened = open_model(spec)
    tokens = opened.tokenizer.encode(source.text)
    check_context(opened, len(tokens), sampling.max_tokens)
    pipeline = chosen.open() if annotate else None

    loaded = load_model(opened, spec, one_row=engine == "loop" and num_samples == 1)
    score_prompt = echo and logprobs is not None
    run = _Run(loaded, tokens, sampling, num_samples, engine, score_prompt=score_prompt, speculate=speculate)
    if as_json:
        for _ in run.steps():
            pass
        document = _document(run, engine, echo=source.text if echo else None)
        if pipeline is not None:
            document["olc"] |= completions_json(pipeline, run.texts)
        out_json(document)
    else:
        writer = CompletionWriter(source.text, num_samples, echo=echo, stream=not no_stream)
        with writer:
            for step in run.steps():
                writer.write(step.row, step.text, last=step.finish_reason is not None)
        if pipeline is not None:
            show_completions(pipeline, run.texts)
    if stats:
        show_stats(run.timings.as_dict(), device=loaded.device, dtype=loaded.precision, forward=run.forward)


def _sampling(
    given: Mapping[str, Any], template: "PromptTemplate | None", *, samples: int, logprobs: int | None
) -> SamplingConfig:
    """A template's settings beneath the options that were given; a seed where one is needed and none was given."""
    settings: dict[str, Any] = dict(given)
    if template is not None:
        settings["stop"] = (*given.get("stop", ()), *template.stop)
        if template.max_tokens is not None:
            settings.setdefault("max_tokens", template.max_tokens)
    if logprobs is not None:
        settings["logprobs"] = logprobs
    if samples > 1 and settings.setdefault("temperature", 1.0) == 0:
        raise UsageError(f"--num-samples {samples} at temperature 0 gives {samples} equal texts", "give --temperature 0.8")
    config = SamplingConfig.from_given(settings)
    if config.greedy or config.seed is not None:
        return config
    # Reported in the JSON, so that a text one likes can be had again.
    return SamplingConfig.from_given({**settings, "seed": secrets.randbits(31)})


class _Run:
    """The completion of one prompt, `samples` times: its steps, and what they came to."""

    def __init__(
        self,
        loaded: "LoadedModel",
        tokens: list[int],
        sampling: SamplingConfig,
        samples: int,
        engine: Any,
        *,
        score_prompt: bool,
        speculate: int,
    ) -> None:
        from openllama_cli.generation.forward.cache import PrefixCache
        from openllama_cli.generation.session import choose_forward, make_engine
        from openllama_cli.generation.text.completion import Completion
        from openllama_cli.generation.text.stream import Prompt

        self.loaded, self.sampling = loaded, sampling
        self.made_with = describe(loaded)
        self.completions: list[Completion] = [Completion(tokens) for _ in range(samples)]
        self.timings: Timings
        started = time.perf_counter()
        # transformers runs the model by itself.
        forward = choose_forward(loaded, note) if engine == "loop" else None
        # On a GPU kernels are compiled and graphs captured: a part of loading.
        self._load_seconds = loaded.load_seconds + time.perf_counter() - started
        # Which of them ran is what a question about speed begins with.
        self.forward = "model.generate" if forward is None else f"{forward.name} forward pass"
        # All samples have the same prompt: it runs through the model once.
        prefixes = PrefixCache() if samples > 1 else None
        self._engine = make_engine(loaded, engine, forward=forward, prefixes=prefixes)
        self._prompts = [Prompt(row, tokens, sampling, score_prompt, speculate=speculate) for row in range(samples)]

    @property
    def texts(self) -> list[str]:
        return [completion.text for completion in self.completions]

    def steps(self) -> "Iterator[TextStep]":
        from openllama_cli.generation.text.completion import Timings
        from openllama_cli.generation.text.stream import stream

        self.timings = Timings(self._load_seconds, len(self._prompts[0].tokens))
        with closing(stream(self._engine, self.loaded.tokenizer, self._prompts)) as steps:
            for step in steps:
                self.timings.add(step)
                self.completions[step.row].add(step)
                yield step


def _document(run: _Run, engine: str, *, echo: str | None) -> dict[str, Any]:
    """The OpenAI `text_completion` object, and olc's own beside it."""
    from openllama_cli.generation.text.completion import choice, usage

    with_logprobs = run.sampling.logprobs is not None
    return {
        "id": f"cmpl-{secrets.token_hex(12)}",
        "object": "text_completion",
        "created": int(time.time()),
        "model": run.made_with["model"],
        "choices": [
            choice(index, completion, run.loaded.tokenizer, echo=echo, logprobs=with_logprobs)
            for index, completion in enumerate(run.completions)
        ],
        "usage": usage(run.completions),
        "olc": {
            **run.made_with,
            "engine": engine,
            "forward": run.forward,
            "seed": run.sampling.seed,
            "timings": run.timings.as_dict(),
        },
    }
