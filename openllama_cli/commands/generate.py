"""`olc generate`: the decode loop laid open. Several prompts at once, log-probabilities, a check and a trace."""

import secrets
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from openllama_cli.commands.shared import shell_completion as suggest
from openllama_cli.commands.shared.model import load_model, open_model
from openllama_cli.commands.shared.options import escape_option, file_option, model_options, sampling_options
from openllama_cli.commands.shared.pictures import save, writable
from openllama_cli.commands.shared.prompt_input import hint_escape, read_lines, unescape, unescape_stops
from openllama_cli.errors import OlcError, UsageError
from openllama_cli.generation.decode.config import SamplingConfig
from openllama_cli.models.loading.ranks import one_process_only
from openllama_cli.models.opened import OpenedModel, check_context, refuse_quantized
from openllama_cli.models.spec import ModelSpec
from openllama_cli.terminal.streams import hint, is_terminal, note, notice, out, out_json

if TYPE_CHECKING:
    from openllama_cli.generation.text.completion import Completion
    from openllama_cli.models.loading.load import LoadedModel
    from openllama_cli.terminal.views.shading import Shaded

# As in the published Llama scripts.
DEFAULTS = SamplingConfig(max_tokens=64, temperature=0.6, top_p=0.9)
TRACED = 5

EXAMPLES = """\b
Examples:
  olc generate "The largest animal is" "The capital of France is"
  olc generate -e "Q: What is the largest animal?\\nA:" --stop "\\n"
  olc generate -f prompts/examples/en.txt --temperature 0 --json
  olc generate "The largest animal is" --temperature 0 --trace
  olc generate "The largest animal is" --check --dtype float32
  olc generate "The largest animal is" --logprobs --echo --json
  olc generate "The largest animal is" --svg shades.svg
"""


@click.command(epilog=EXAMPLES)
@click.argument("prompts", nargs=-1, metavar="[PROMPT]...")
@file_option("A prompt per line; - is stdin.")
@escape_option("PROMPT and --stop")
@click.option("--logprobs", is_flag=True, help="The log-probability of every token.")
@click.option("--echo", is_flag=True, help="Put the prompt's tokens in front.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object with tokens and texts.")
@click.option("--check", "checking", is_flag=True, help="Compare with model.generate; exit 1 on a difference.")
@click.option("--trace", is_flag=True, help="Show every step: candidates, token taken, entropy.")
@click.option(
    "--svg", metavar="FILE", help="Save the completions, shaded by probability, as a picture.", shell_complete=suggest.files
)
@sampling_options(DEFAULTS)
@model_options
def command(
    prompts: tuple[str, ...],
    file: str | None,
    escape: bool,
    logprobs: bool,
    echo: bool,
    as_json: bool,
    checking: bool,
    trace: bool,
    svg: str | None,
    given: dict[str, Any],
    spec: ModelSpec,
) -> None:
    """Complete several PROMPTs side by side, with the contract of the published Llama `generate`.

    On a terminal each token is shaded by its probability. --temperature 0 is greedy; --check and --trace say what the
    decode loop does and whether it does it right.
    """
    if sum((as_json, trace)) + bool(svg) > 1:
        raise UsageError("--json, --trace and --svg each have an output of their own", "give one of them")
    if checking and (trace or svg):
        raise UsageError("--check compares, and makes no trace or picture", "leave out --check, or --trace and --svg")
    if svg is not None:
        writable(svg)
    if checking:
        one_process_only("--check")
        refuse_quantized(spec, "--check")
    if escape:
        prompts = tuple(unescape(prompt) for prompt in prompts)
        unescape_stops(given)
    texts = [*prompts, *(read_lines(file) if file is not None else [])]
    if not texts:
        raise UsageError("a prompt is missing", 'give one or more, such as "The largest animal is", or a file with -f')
    sampling = _sampling(given, TRACED if trace else 0)
    if not escape:
        hint_escape(prompts)
    opened = open_model(spec)
    tokens = [opened.tokenizer.encode(text) for text in texts]
    for ids in tokens:
        check_context(opened, len(ids), sampling.max_tokens if checking else 0)
    loaded = load_model(opened, spec)
    if checking:
        _check(loaded, opened, tokens, texts, sampling, as_json=as_json)
        return
    if trace:
        _trace(loaded, tokens, texts, sampling)
        return
    completions = _complete(loaded, tokens, sampling, score_prompt=echo)
    if as_json:
        rows = zip(texts, completions, strict=True)
        documents = [_document(loaded, text, row, logprobs=logprobs, echo=echo) for text, row in rows]
        out_json({"model": loaded.folder.name, "seed": sampling.seed, "completions": documents})
        return
    _show(loaded, texts, completions, svg=svg, echo=echo, logprobs=logprobs)


def _sampling(given: dict[str, Any], logprobs: int) -> SamplingConfig:
    """The published defaults beneath what was given, and a seed. Log-probabilities are always asked for: they shade."""
    settings = {"max_tokens": DEFAULTS.max_tokens, "temperature": DEFAULTS.temperature, "top_p": DEFAULTS.top_p}
    config = SamplingConfig.from_given({**settings, **given, "logprobs": logprobs})
    return config if config.greedy or config.seed is not None else replace(config, seed=secrets.randbits(31))


def _complete(
    loaded: "LoadedModel", tokens: Sequence[Sequence[int]], sampling: SamplingConfig, *, score_prompt: bool
) -> "list[Completion]":
    from openllama_cli.generation.session import make_engine
    from openllama_cli.generation.text.completion import Completion
    from openllama_cli.generation.text.stream import Prompt, stream

    completions = [Completion(ids) for ids in tokens]
    prompts = (Prompt(row, ids, sampling, score_prompt) for row, ids in enumerate(tokens))
    for step in stream(make_engine(loaded, notice=note), loaded.tokenizer, prompts):
        completions[step.row].add(step)
    return completions


def _document(loaded: "LoadedModel", text: str, row: "Completion", *, logprobs: bool, echo: bool) -> dict[str, Any]:
    """One completion. tokens and logprobs: cut at EOS, with `echo` the prompt's in front, BOS included (null)."""
    scored = [*(row.prompt_scored if echo else ()), *row.shown]
    return {
        "prompt": text,
        "text": (text if echo else "") + row.text,
        "tokens": [entry.token for entry in scored],
        "logprobs": [entry.logprob for entry in scored] if logprobs else None,
        "finish_reason": row.finish_reason,
    }


def _show(
    loaded: "LoadedModel",
    texts: Sequence[str],
    completions: "Sequence[Completion]",
    *,
    svg: str | None,
    echo: bool,
    logprobs: bool,
) -> None:
    import sys

    from openllama_cli.terminal.views.shading import show_legend, show_shaded
    from openllama_cli.terminal.views.shading import svg as draw

    pictures = [(text, _shaded(loaded, row)) for text, row in zip(texts, completions, strict=True)]
    if svg is not None:
        save(Path(svg), draw(pictures, title=f"olc generate · {loaded.folder.name}"))
        notice(f"olc: wrote {svg}")
    terminal = is_terminal(sys.stdout)
    for (text, pieces), row in zip(pictures, completions, strict=True):
        if terminal:
            show_shaded(text, pieces)
        else:
            out((text if echo else "") + row.text + "\n")
        if logprobs:
            from openllama_cli.terminal.tables import table

            entries = zip(row.shown, pieces, strict=False)
            table(
                ["token", "text", "logprob"],
                [[str(entry.token), piece.text, f"{entry.logprob:.4f}"] for entry, piece in entries],
                right=["token", "logprob"],
            )
    if terminal:
        show_legend()


def _shaded(loaded: "LoadedModel", row: "Completion") -> "list[Shaded]":
    """The text of each token, and its log-probability; of a stop string, and the tokens that are all of it, nothing."""
    from openllama_cli.generation.text.incremental import IncrementalDecoder
    from openllama_cli.terminal.views.shading import Shaded

    decoder = IncrementalDecoder(loaded.tokenizer, row.prompt)
    pieces, offset = [], 0
    for entry in row.shown:
        text = decoder.push(entry.token)
        if row.finish_reason != "stop" or offset < len(row.text):
            pieces.append(Shaded(row.text[offset : offset + len(text)], entry.logprob))
        offset += len(text)
    return [*pieces, Shaded(row.text[offset:])]


def _trace(loaded: "LoadedModel", tokens: Sequence[Sequence[int]], texts: Sequence[str], sampling: SamplingConfig) -> None:
    """One prompt after another, since their steps would be mixed; the tokens are those they have side by side."""
    from openllama_cli.generation.session import make_engine
    from openllama_cli.generation.text.stream import Prompt, stream
    from openllama_cli.terminal.views.trace import TraceWriter

    engine, tokenizer = make_engine(loaded, notice=note), loaded.tokenizer
    for row, (ids, text) in enumerate(zip(tokens, texts, strict=True)):
        writer = TraceWriter()
        writer.begin(text)
        position = len(ids)
        for step in stream(engine, tokenizer, [Prompt(row, ids, sampling)]):
            if step.error is not None:
                raise step.error
            if step.scored is None or step.scored.logprob is None or step.scored.entropy is None:
                continue
            token = step.scored.token
            top = [(tokenizer.piece(other), value) for other, value in step.scored.top]
            writer.step(position, token, tokenizer.piece(token), step.scored.logprob, step.scored.entropy, top)
            position += 1
        if step.finish_reason is not None:
            notice(f"olc: ended by {_ENDS[step.finish_reason]}")


_ENDS = {"eos": "the model (EOS)", "stop": "a stop string", "length": "--max-tokens", "context": "the context"}


def _check(
    loaded: "LoadedModel",
    opened: OpenedModel,
    tokens: Sequence[Sequence[int]],
    texts: Sequence[str],
    sampling: SamplingConfig,
    *,
    as_json: bool,
) -> None:
    """Report the comparison of every prompt. Raises OlcError if one differs in float32."""
    from openllama_cli.generation.decode.reference import check
    from openllama_cli.generation.session import choose_forward
    from openllama_cli.terminal.tables import table

    forward = choose_forward(loaded, note)
    eos = loaded.tokenizer.eos_ids
    assert loaded.model is not None  # Quantized weights were refused.
    checks = list(check(loaded.model, loaded.input_device, forward, tokens, sampling.max_tokens, eos))
    exact = str(loaded.dtype) == "torch.float32"
    if as_json:
        documents = [
            {
                "prompt": texts[one.row],
                "same": one.same,
                "tokens": list(one.ours),
                "generate_tokens": list(one.theirs),
                "first_difference": one.first_difference,
                "margin": one.margin,
                "logprob_difference": one.logprob_difference,
            }
            for one in checks
        ]
        out_json({"model": loaded.folder.name, "dtype": str(loaded.dtype).removeprefix("torch."), "checks": documents})
    else:
        rows = []
        for one in checks:
            place = one.first_difference
            what = "equal" if place is None else f"differ from token {place + 1} on"
            if one.margin is not None:
                what += f" (margin {one.margin:.2g})"
            rows.append([texts[one.row], str(len(one.ours)), what, f"{one.logprob_difference:.1e}"])
        table(["prompt", "tokens", "against model.generate", "largest logprob difference"], rows, right=["tokens"])
    differing = sum(not one.same for one in checks)
    if differing and exact:
        raise OlcError(
            f"{differing} of {len(checks)} prompts differ from model.generate or a full forward pass in float32",
            "please report this with the command and `olc models info`",
            code="check_failed",
        )
    if differing:
        hint(f"{differing} of {len(checks)} differ in {loaded.dtype}, where rounding decides near ties; add --dtype float32")
