"""`olc complete`: one prompt, completed as it streams."""

import functools
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from openllama_cli.commands.shared.annotations import PipelineOptions, completions_json, pipeline_options, show_completions
from openllama_cli.commands.shared.choice_options import ChoiceOptions, choice_options, sampling_flags, with_neutral
from openllama_cli.commands.shared.choosing import choose, text_of
from openllama_cli.commands.shared.completing import Completing, Loaded, Served
from openllama_cli.commands.shared.few_shot import (
    ExampleOptions,
    example_options,
    fitted,
    show_prompt_option,
    show_prompts,
    with_template,
)
from openllama_cli.commands.shared.model import load_model, open_model
from openllama_cli.commands.shared.options import (
    GroupedCommand,
    escape_option,
    file_option,
    model_options,
    number_option,
    pair_option,
    template_option,
)
from openllama_cli.commands.shared.prompt_input import hint_escape, read_prompt, unescape_stops
from openllama_cli.commands.shared.sampling.hints import hint_ends, hint_prompt
from openllama_cli.commands.shared.sampling.options import sampling_options
from openllama_cli.commands.shared.server import ServerChoice, server_options
from openllama_cli.errors import UsageError
from openllama_cli.generation.decode.config import SamplingConfig, choose_sampling, loop_only
from openllama_cli.generation.text.token_ids import resolve
from openllama_cli.models.loading.ranks import one_process_only
from openllama_cli.models.opened import check_context, refuse_quantized
from openllama_cli.models.spec import ModelSpec
from openllama_cli.serve.client.asked import Asked
from openllama_cli.terminal.streams import note, out_json
from openllama_cli.terminal.views.choices import Bar, show_choice
from openllama_cli.terminal.views.complete import CompletionWriter, show_stats

if TYPE_CHECKING:
    from openllama_cli.serve.client.find import FoundServer

EXAMPLES = """\b
Examples:
  olc complete "Q: What is the largest animal?"
  olc complete -e "Q: What is the largest animal?\\nA:" --stop "\\n"
  cat notes.txt | olc complete -t summarize
  olc complete -t qa -p question "What is the capital of France?"
  olc complete -t sentiment --examples prompts/examples/sentiment.csv --shots 4 "The soup was cold."
  olc complete "The largest animal is" --temperature 0.8 --seed 7
  olc complete "The sky is" --choices blue,green,red
  olc complete "Born in" --regex ' \\d{4}'
  olc complete "A spider:" --json-schema '{"type": "object", "properties": {"legs": {"type": "integer"}}}'
  olc complete "The largest anim" --heal --stop-at sentence
  olc complete "The largest animal is" --ban whale --logit-bias ' blue=-5' --dry-multiplier 0.8
  olc complete "The largest animal is" --json --logprobs 3 | jq .
  olc complete -m ./name.Q8_0.gguf "The largest animal is"
  olc complete -m 3b-v2 --adapter ./my-lora "The largest animal is"
"""


@click.command(cls=GroupedCommand, epilog=EXAMPLES)
@click.argument("prompt", required=False)
@file_option("File with the prompt, all of it, byte for byte; - is stdin.")
@template_option("Prompt template to fill: qa, classify, summarize, …")
@pair_option("-p", "values", multiple=True, metavar="NAME VALUE", help="Template variable; VALUE - is stdin.")
@example_options
@show_prompt_option
@choice_options
@escape_option("PROMPT, --stop, --ban and choices")
@click.option("--echo", is_flag=True, help="Print the prompt before the completion.")
@click.option(
    "--logprobs", type=int, metavar="K", help="With --json: the log-probability of each token and of the K most likely ones."
)
@number_option("--num-samples", default=1, help="Number of completions to sample.")
@click.option("--json", "as_json", is_flag=True, help="Print one OpenAI text_completion object.")
@click.option("--no-stream", is_flag=True, help="Print the completion when it is finished, not as it is generated.")
@click.option("--stats", is_flag=True, help="Print timings and speeds to stderr.")
@click.option(
    "--engine",
    type=click.Choice(["loop", "transformers"]),
    default="loop",
    show_default=True,
    help="olc's own decode loop, or transformers' model.generate, the reference.",
)
@number_option(
    "--speculate",
    least=0,
    most=64,
    default=0,
    help="Draft up to N tokens from earlier text (prompt lookup) and verify them in one pass; faster for summaries and code.",
)
@click.option("--annotate", is_flag=True, help="Annotate the completion with spaCy; see `olc annotate --help`.")
@pipeline_options
@sampling_options(SamplingConfig(), guarded=True)
@model_options
@server_options
def command(
    prompt: str | None,
    file: str | None,
    template: str | None,
    values: tuple[tuple[str, str], ...],
    examples: ExampleOptions,
    show_prompt: bool,
    choosing: ChoiceOptions,
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
    server: ServerChoice,
) -> None:
    r"""Complete PROMPT and print the text as it is generated.

    Without PROMPT, or with -, the prompt is read from stdin. Decoding is greedy unless a sampling option is given. The model
    is --model, OLC_MODEL, the default set with `olc models default`, or a small built-in demo.
    """
    if logprobs is not None and not as_json:
        raise UsageError("--logprobs requires --json", "add --json")
    if speculate and engine == "transformers":
        raise UsageError("--speculate cannot be used with --engine transformers", "leave one of them out")
    if chosen.given and not annotate:
        raise UsageError(f"{chosen.given} requires --annotate", "add --annotate")
    if engine == "transformers":
        refuse_quantized(spec, "--engine transformers")
        one_process_only("--engine transformers")
    if escape:
        unescape_stops(given)
    source = read_prompt(prompt, file, template, values, replace(examples, prefix=choosing.prefix), escape=escape)
    if prompt is not None and not escape:
        hint_escape([prompt])
    open_pipeline = functools.cache(chosen.open)
    choices = choosing.choices(source.template)
    if choices is not None:
        others = {"--num-samples": num_samples > 1, "--logprobs": logprobs is not None, "--echo": echo}
        others |= {"--speculate": speculate > 0, "--engine transformers": engine == "transformers"}
        choosing.refuse(source.template, {**sampling_flags(given), **others})
    settings = {**with_template(given, source.template), "logprobs": logprobs}
    sampling = choose_sampling(settings, samples=num_samples, guarded=engine == "loop")
    if engine == "transformers" and (flag := loop_only(sampling)) is not None:
        raise UsageError(f"{flag} cannot be used with --engine transformers", "leave one of them out")
    server.refuse("--engine transformers" if engine == "transformers" else "--speculate" if speculate else None)
    folder = None
    if source.few_shot is not None and server.address is None:
        (cut,), folder = fitted([source.few_shot], spec, sampling.max_tokens, choices)
        source = replace(source, text=cut.text, few_shot=cut)
    text = source.text
    if show_prompt:
        show_prompts([text], as_json=as_json)
        return
    if choices is not None:
        choices = with_neutral(choices, choosing, source)
        if annotate:
            open_pipeline()
        answer = choose(text, choices, spec, server, folder, **source.options)
        if as_json:
            document = answer.document()
            if annotate:
                document["olc"] |= completions_json(open_pipeline(), [text_of(answer)])
            out_json(document)
        else:
            bars = [Bar(choice.text, choice.probability) for choice in answer.scored]
            show_choice(text, choices.prefix_after(text), text_of(answer), bars)
            if annotate:
                show_completions(open_pipeline(), [text_of(answer)])
        if stats:
            show_stats(answer.stats)
        return
    fit = "max_tokens" not in given
    asked = Asked((text,), sampling, num_samples, echo=echo and as_json, fit=fit, record=as_json)

    def served(found: "FoundServer") -> Completing:
        if annotate:
            open_pipeline()
        return Served(found, asked, whole=as_json, **source.options)

    found, folder = server.answer(spec, served, folder, able=engine == "loop" and not speculate)
    if found is not None:
        hint_prompt([text], healed=sampling.heal)
        made = found
    else:
        opened = open_model(spec, folder)
        hint_prompt([text], opened.tokenizer, healed=sampling.heal)
        sampling = resolve(sampling, opened.tokenizer, opened.checkpoint.shape.vocab)
        tokens = opened.tokenizer.encode(text)
        # A length that nobody asked for ends where the context does.
        check_context(opened, len(tokens), sampling.max_tokens if "max_tokens" in given else min(1, sampling.max_tokens))
        if annotate:
            open_pipeline()
        loaded = load_model(opened, spec, one_row=engine == "loop" and num_samples == 1, lean=engine == "loop")
        from openllama_cli.api import Model, Run

        run = Run(
            Model(loaded, notice=note),
            [tokens],
            sampling,
            samples=num_samples,
            engine=engine,
            score_prompt=echo and logprobs is not None,
            speculate=speculate,
        )
        made = Loaded(run, engine, text, echo=echo, speculate=speculate, **source.options)
    if as_json:
        document = made.document()
        if annotate:
            document["olc"] |= completions_json(open_pipeline(), made.texts)
        out_json(document)
    else:
        with CompletionWriter(text, num_samples, echo=echo, stream=not no_stream) as writer:
            for step in made.steps():
                writer.write(step.row, step.text, last=step.last)
        if annotate:
            show_completions(open_pipeline(), made.texts)
    chosen_length = settings.get("max_tokens") is not None
    hint_ends(sampling, made.reasons, made.texts, chosen=chosen_length, room=made.room)
    if stats:
        show_stats(made.stats)
