"""The options that mean the same in every command, as decorators: which model, how to sample, files and templates."""

import functools
from collections.abc import Callable
from dataclasses import fields
from typing import Any, get_args

import click
from click.core import ParameterSource

from openllama_cli.commands.shared import shell_completion as suggest
from openllama_cli.errors import UsageError
from openllama_cli.generation.decode.config import SamplingConfig
from openllama_cli.models.spec import ModelSpec, QuantizeName
from openllama_cli.system.device import DtypeName

Command = Callable[..., Any]


model_option = click.option(
    "-m",
    "--model",
    metavar="MODEL",
    help="Model alias (such as 3b-v2), Hub id, folder or GGUF file.  [env var: OLC_MODEL]",
    shell_complete=suggest.models,
)
revision_option = click.option("--revision", metavar="REV", help="Branch, tag or commit of the model on the Hub.")
device_option = click.option(
    "--device",
    default=ModelSpec.device,
    show_default=True,
    metavar="auto|cpu|cuda[:N]|mps",
    help="Device to run the model on.",
    shell_complete=suggest.choices("auto", "cpu", "cuda", "mps"),
)
dtype_option = click.option(
    "--dtype",
    default=ModelSpec.dtype,
    show_default=True,
    metavar="auto|float32|float16|bfloat16",
    help="Data type of the weights and activations.",
    shell_complete=suggest.choices(*get_args(DtypeName)),
)
quantize_option = click.option(
    "--quantize",
    metavar="int8|int4",
    help="Quantize the weights to 8 or 4 bits (CPU only): less memory, faster, slightly less accurate.",
    shell_complete=suggest.choices(*get_args(QuantizeName)),
)
offline_option = click.option("--offline", is_flag=True, help="Never use the network.  [env var: HF_HUB_OFFLINE=1]")


adapter_option = click.option(
    "--adapter",
    "adapters",
    multiple=True,
    metavar="PATH|ID[:SCALE]",
    help="LoRA adapter (PEFT) to merge into the model: a folder or Hub id; may be given several times.",
    shell_complete=suggest.folders,
)


def template_option(help: str) -> Callable[[Command], Command]:
    """Add -t/--template."""
    return click.option("-t", "--template", metavar="NAME|PATH", help=help, shell_complete=suggest.templates)


def file_option(help: str) -> Callable[[Command], Command]:
    """Add -f/--file. help: says what the file holds."""
    return click.option("-f", "--file", metavar="FILE", help=help, shell_complete=suggest.files)


def svg_option(help: str, *more: str) -> Callable[[Command], Command]:
    """Add --svg and more names of it. help: says what the picture shows."""
    return click.option("--svg", *more, metavar="FILE", help=help, shell_complete=suggest.files)


def number_option(
    *names: str, least: int = 1, most: int | None = None, default: int, help: str
) -> Callable[[Command], Command]:
    """Add an option that is a whole number from `least` to `most`."""
    numbers = click.IntRange(least, most)
    return click.option(*names, type=numbers, default=default, show_default=True, metavar="N", help=help)


def pair_option(*names: str, metavar: str, help: str, **settings: Any) -> Callable[[Command], Command]:
    """Add an option of two values. metavar: their names. The name of another option is never taken for one of them."""

    def check(ctx: click.Context, parameter: click.Parameter, value: Any) -> Any:
        options = {name for other in ctx.command.params if isinstance(other, click.Option) for name in other.opts}
        pairs = () if value is None or ctx.resilient_parsing else value if parameter.multiple else (value,)
        for pair in pairs:
            for place, text in zip(metavar.split(), pair, strict=True):
                if text.partition("=")[0] in options:
                    needs = " and ".join(metavar.split())
                    raise UsageError(
                        f"{parameter.opts[0]} needs {needs}; {place} was {text!r}", f"give both: {names[0]} {metavar}"
                    )
        return value

    return click.option(*names, nargs=2, metavar=metavar, help=help, callback=check, **settings)


def model_options(function: Command) -> Command:
    """Add -m, --adapter, --revision, --device, --dtype, --quantize and --offline; the command receives a `spec: ModelSpec`."""

    @model_option
    @adapter_option
    @revision_option
    @device_option
    @dtype_option
    @quantize_option
    @offline_option
    @functools.wraps(function)
    def wrapper(*args: Any, **values: Any) -> Any:
        spec = ModelSpec(**{field.name: values.pop(field.name) for field in fields(ModelSpec)})
        return function(*args, spec=spec, **values)

    return wrapper


def escape_option(where: str) -> Callable[[Command], Command]:
    r"""Add -e/--escape. where: the texts in which it applies."""
    return click.option("-e", "--escape", is_flag=True, help=rf"Interpret \n, \t and \\ in {where} as escape sequences.")


def sampling_options(defaults: SamplingConfig) -> Callable[[Command], Command]:
    """Add the sampling options; the command receives the ones that were given as `given: dict[str, Any]`.

    Only those given, so that a template's or a command's own defaults can lie beneath them:
    `SamplingConfig.from_given({**own, **given})`. defaults: what the help texts show.
    """
    unset = "  [default: 0, or 1 with another sampling option]" if defaults.greedy else ""
    options: dict[str, Callable[[Command], Command]] = {
        "max_tokens": click.option(
            "-n",
            "--max-tokens",
            "--max-new-tokens",
            "--max-gen-len",
            type=int,
            metavar="N",
            default=defaults.max_tokens,
            show_default=True,
            help="Maximum number of tokens to generate.",
        ),
        "temperature": click.option(
            "--temperature",
            "--temp",
            type=float,
            metavar="T",
            default=defaults.temperature,
            show_default=not unset,
            help=f"Sampling temperature; 0 is greedy decoding.{unset}",
        ),
        "top_p": click.option(
            "--top-p",
            type=float,
            metavar="P",
            default=defaults.top_p,
            show_default=True,
            help="Nucleus sampling: keep the smallest set of tokens whose probabilities add up to P.",
        ),
        "top_k": click.option("--top-k", type=int, metavar="K", help="Keep only the K most likely tokens."),
        "min_p": click.option(
            "--min-p", type=float, metavar="P", help="Drop tokens less than P times as likely as the most likely one."
        ),
        "repetition_penalty": click.option(
            "--repetition-penalty",
            type=float,
            metavar="R",
            help="Above 1, tokens of the prompt and the completion so far become less likely.",
        ),
        "seed": click.option("-s", "--seed", type=int, metavar="SEED", help="Random seed: the same seed gives the same text."),
        "stop": click.option(
            "--stop", multiple=True, metavar="TEXT", help="Stop before this text; may be given several times."
        ),
    }

    def decorate(function: Command) -> Command:
        @functools.wraps(function)
        def wrapper(*args: Any, **values: Any) -> Any:
            source = click.get_current_context().get_parameter_source
            sampling = {name: values.pop(name) for name in options}
            given = {name: value for name, value in sampling.items() if source(name) is not ParameterSource.DEFAULT}
            return function(*args, given=given, **values)

        command: Command = wrapper
        for option in reversed(options.values()):
            command = option(command)
        return command

    return decorate
