"""The options that mean the same in every command, as decorators: which model, files, templates; and the groups of a help."""

import functools
from collections.abc import Callable
from dataclasses import fields
from typing import Any, get_args

import click

from openllama_cli.commands.shared import shell_completion as suggest
from openllama_cli.errors import UsageError
from openllama_cli.models.spec import ModelSpec, QuantizeName
from openllama_cli.system.device import DtypeName

Command = Callable[..., Any]
# Options without a heading of their own.
_REST = "Options"


class GroupedOption(click.Option):
    """An option that the help lists under a heading of its own. group: the heading."""

    def __init__(self, *args: Any, group: str = _REST, **settings: Any) -> None:
        self.group = group
        super().__init__(*args, **settings)


class GroupedCommand(click.Command):
    """A command whose help has a section for each group of its options, after those without one."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        groups: dict[str, list[tuple[str, str]]] = {_REST: []}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                groups.setdefault(getattr(parameter, "group", _REST), []).append(record)
        for title, records in groups.items():
            with formatter.section(title):
                formatter.write_dl(records)


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
    help="LoRA adapter (PEFT) to merge into the model, times SCALE (1): a folder or Hub id; may be given several times.",
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
