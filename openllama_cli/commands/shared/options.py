"""Option groups that mean the same in every command, as decorators, and `-` / stdin."""

import functools
from collections.abc import Callable
from typing import Any, get_args

import click

from openllama_cli.commands.shared import shell_completion as suggest
from openllama_cli.generation.decode.config import SamplingConfig
from openllama_cli.models.spec import ModelSpec, QuantizeName
from openllama_cli.system.device import DtypeName

Command = Callable[..., Any]


model_option = click.option(
    "-m", "--model", metavar="MODEL", help="Alias (3b-v2), Hub id or folder. [env: OLC_MODEL]", shell_complete=suggest.models
)
device_option = click.option(
    "--device",
    default=ModelSpec.device,
    show_default=True,
    metavar="auto|cpu|cuda[:N]|mps",
    shell_complete=suggest.choices("auto", "cpu", "cuda", "mps"),
)
dtype_option = click.option(
    "--dtype",
    default=ModelSpec.dtype,
    show_default=True,
    metavar="auto|float32|float16|bfloat16",
    shell_complete=suggest.choices(*get_args(DtypeName)),
)
quantize_option = click.option(
    "--quantize",
    metavar="int8|int4",
    help="Weights of 8 or 4 bits: faster on a CPU, a little less exact.",
    shell_complete=suggest.choices(*get_args(QuantizeName)),
)


def template_option(help: str) -> Callable[[Command], Command]:
    """Add -t. help: what the template is filled with."""
    return click.option("-t", "--template", metavar="NAME|PATH", help=help, shell_complete=suggest.templates)


def file_option(help: str) -> Callable[[Command], Command]:
    """Add -f. help: what of the file is used."""
    return click.option("-f", "--file", metavar="FILE", help=help, shell_complete=suggest.files)


def model_options(function: Command) -> Command:
    """Add -m, --revision, --device, --dtype, --quantize and --offline; the command receives them as `spec: ModelSpec`."""

    @model_option
    @click.option("--revision", metavar="REV", help="Branch, tag or commit on the Hub.")
    @device_option
    @dtype_option
    @quantize_option
    @click.option("--offline", is_flag=True, help="Never use the network. [env: HF_HUB_OFFLINE=1]")
    @functools.wraps(function)
    def wrapper(
        *args: Any,
        model: str | None,
        revision: str | None,
        device: str,
        dtype: Any,
        quantize: Any,
        offline: bool,
        **rest: Any,
    ) -> Any:
        spec = ModelSpec(model=model, revision=revision, device=device, dtype=dtype, offline=offline, quantize=quantize)
        return function(*args, spec=spec, **rest)

    return wrapper


def escape_option(where: str) -> Callable[[Command], Command]:
    """Add -e. where: what it is for, as the help text names it."""
    return click.option("-e", "--escape", is_flag=True, help=rf"Turn \n, \t and \\ in {where} into characters.")


def sampling_options(defaults: SamplingConfig) -> Callable[[Command], Command]:
    """Add the sampling options; the command receives the ones that were given as `given: dict[str, Any]`.

    Only those given, so that a template's or a command's own defaults can lie beneath them:
    `SamplingConfig.from_given({**own, **given})`. defaults: what the help texts name.
    """
    temperature = "0, or 1 with another sampling option" if defaults.greedy else f"{defaults.temperature:g}"
    top_p = f" [{defaults.top_p:g}]" if defaults.top_p < 1 else ""
    length = f"Tokens at most. [{defaults.max_tokens}]"

    def decorate(function: Command) -> Command:
        @click.option("-n", "--max-tokens", "--max-new-tokens", "--max-gen-len", type=int, metavar="N", help=length)
        @click.option("--temperature", "--temp", type=float, metavar="T", help=f"0 is greedy. [{temperature}]")
        @click.option("--top-p", type=float, metavar="P", help=f"Keep the likeliest tokens that make up P.{top_p}")
        @click.option("--top-k", type=int, metavar="K", help="Keep the K likeliest tokens.")
        @click.option("--min-p", type=float, metavar="P", help="Keep tokens P times as likely as the likeliest.")
        @click.option("--repetition-penalty", type=float, metavar="R", help="Above 1: tokens seen are less likely.")
        @click.option("-s", "--seed", type=int, metavar="SEED", help="The same seed, the same text.")
        @click.option("--stop", multiple=True, metavar="TEXT", help="End before this text; repeatable.")
        @functools.wraps(function)
        def wrapper(*args: Any, **options: Any) -> Any:
            names = ("max_tokens", "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "seed", "stop")
            values = {name: options.pop(name) for name in names}
            given = {name: value for name, value in values.items() if value is not None and value != ()}
            return function(*args, given=given, **options)

        return wrapper

    return decorate
