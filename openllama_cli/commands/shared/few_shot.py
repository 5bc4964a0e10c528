"""`--examples` and what goes with it: prompts with worked examples, and `--show-prompt`."""

import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from openllama_cli.commands.shared import shell_completion as suggest
from openllama_cli.commands.shared.model import find_model
from openllama_cli.errors import UsageError
from openllama_cli.models.opened import OpenedModel
from openllama_cli.models.spec import ModelFolder, ModelSpec
from openllama_cli.terminal.streams import is_terminal, note, out, out_json

if TYPE_CHECKING:
    from openllama_cli.few_shot import FewShot, FewShotPrompt, Fitting
    from openllama_cli.generation.choices.config import Choices
    from openllama_cli.prompt_templates import PromptTemplate

Command = Callable[..., Any]

show_prompt_option = click.option("--show-prompt", is_flag=True, help="Print the prompt, byte for byte, and end.")


@dataclass(frozen=True)
class ExampleOptions:
    """The options as given. prefix: between an example and its answer, in place of the template's: --choices-prefix."""

    file: str | None
    shots: int | None
    seed: int | None
    balance: bool
    prefix: str | None = None

    def open(self, template: "PromptTemplate | None") -> "FewShot | None":
        """The examples, for a template; None where none are asked for. Raises UsageError."""
        if self.file is None or self.shots is None:
            return None
        if template is None:
            raise UsageError("--examples requires a template", "name one with -t, such as -t qa; see prompts/README.md")
        from openllama_cli.few_shot import FewShot, read_examples

        if self.prefix is not None:
            template = replace(template, choices_prefix=self.prefix)
        return FewShot(template, read_examples(Path(self.file), template), self.shots, self.seed, self.balance)


NO_EXAMPLES = ExampleOptions(None, None, None, balance=False)


def example_options(function: Command) -> Command:
    """Add --examples, --shots, --examples-seed and --balance; the command receives them as `examples: ExampleOptions`."""

    @click.option(
        "--examples",
        "examples_file",
        metavar="FILE",
        help="Examples for a few-shot prompt: CSV, TSV or JSON lines with the template's variables and `answer`.",
        shell_complete=suggest.files,
    )
    @click.option("--shots", type=click.IntRange(0), metavar="N", help="How many examples stand in front of a prompt.")
    @click.option(
        "--examples-seed", type=int, metavar="SEED", help="Shuffle the examples first; the same seed, the same order."
    )
    @click.option("--balance", is_flag=True, help="Take the examples in turns from the different answers.")
    @functools.wraps(function)
    def wrapper(
        *args: Any, examples_file: str | None, shots: int | None, examples_seed: int | None, balance: bool, **values: Any
    ) -> Any:
        alone = "--shots" if shots is not None else "--examples-seed" if examples_seed is not None else "--balance"
        if examples_file is None and (shots is not None or examples_seed is not None or balance):
            raise UsageError(f"{alone} requires --examples", "add --examples FILE")
        if examples_file is not None and shots is None:
            raise UsageError("--examples requires --shots", "say how many stand in a prompt, such as --shots 4")
        return function(*args, examples=ExampleOptions(examples_file, shots, examples_seed, balance), **values)

    return wrapper


def with_template(given: Mapping[str, Any], template: "PromptTemplate | None") -> dict[str, Any]:
    """Sampling options that were given, with a template's beneath."""
    settings = dict(given)
    if template is not None:
        settings["stop"] = (*given.get("stop", ()), *template.stop)
        if template.max_tokens is not None:
            settings.setdefault("max_tokens", template.max_tokens)
    return settings


def fitting(opened: OpenedModel) -> "Fitting":
    """What leaves out the examples that a model has no room for."""
    from openllama_cli.few_shot import Fitting

    return Fitting(lambda text: len(opened.tokenizer.encode(text)), opened.checkpoint.shape.context)


def fitted(
    prompts: Sequence["FewShotPrompt"], spec: ModelSpec, max_tokens: int, choices: "Choices | None" = None
) -> tuple[Sequence["FewShotPrompt"], ModelFolder]:
    """Prompts for the model that is chosen, without the examples that it has no room for, which is said. And the model.

    choices: stand after a prompt in place of max_tokens. Raises OlcError.
    """
    folder = find_model(spec)
    fit = fitting(OpenedModel.of(folder))
    if choices is None:
        cut = [fit(prompt, max_tokens) for prompt in prompts]
    else:
        cut = [fit(prompt, 0, choices.after(prompt.text)) for prompt in prompts]
    tell_cut(fit, len(prompts), max(len(prompt.shots) for prompt in prompts), None if choices is not None else max_tokens)
    return cut, folder


def tell_cut(fit: "Fitting", prompts: int, shots: int, max_tokens: int | None) -> None:
    """Say how many examples were left out, if any were.

    prompts: how many there are. shots: how many were asked for. max_tokens: that follow a prompt; None: choices do.
    """
    if not fit.cut:
        return
    which = "the prompt has" if prompts == 1 else f"{fit.cut} of {prompts} prompts {'has' if fit.cut == 1 else 'have'}"
    least = "" if fit.cut == 1 else "at least "
    beside = "the longest choice" if max_tokens is None else f"--max-tokens {max_tokens}"
    context = f"the context of {fit.context} tokens has no room for more beside {beside}"
    note(f"{which} {least}{fit.least} of {shots} shots: {context}")


def show_prompts(prompts: Sequence[str], *, as_json: bool) -> None:
    """Print prompts: one as it is; several with a line break after each, and their numbers on stderr."""
    if as_json:
        out_json({"prompts": list(prompts)})
        return
    for number, prompt in enumerate(prompts, 1):
        if len(prompts) > 1:
            note(f"prompt {number} of {len(prompts)}:")
        # On a terminal what comes next begins on a line of its own.
        ends = len(prompts) > 1 or (is_terminal(sys.stdout) and not prompt.endswith("\n"))
        out(prompt + "\n" * ends)
