"""The options that say how tokens are chosen and when a text ends, the same in every command."""

import functools
from collections.abc import Callable
from typing import Any, get_args

import click
from click.core import ParameterSource

from openllama_cli.commands.shared import shell_completion as suggest
from openllama_cli.commands.shared.options import GroupedOption
from openllama_cli.commands.shared.sampling.constraints import constraint_options
from openllama_cli.errors import UsageError
from openllama_cli.generation.decode.config import Boundary, SamplingConfig

Command = Callable[..., Any]
Decorator = Callable[[Command], Command]

_ENDS = "Where a text ends"
_PENALTIES = "Penalties and bans"


def sampling_options(defaults: SamplingConfig, *, guarded: bool = False) -> Decorator:
    """Add the sampling options; the command receives the ones that were given as `given: dict[str, Any]`.

    Only those given, so that a template's or a command's own defaults can lie beneath them:
    `SamplingConfig.from_given({**own, **given})`. defaults: what the help texts show. guarded: whether the loop guard is on for
    greedy decoding.
    """
    options = {**_sampling(defaults), **_ends(guarded=guarded), **_penalties(), **constraint_options()}

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


def _sampling(defaults: SamplingConfig) -> dict[str, Decorator]:
    unset = "  [default: 0, or 1 with another sampling option]" if defaults.greedy else ""
    return {
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
        "seed": click.option("-s", "--seed", type=int, metavar="SEED", help="Random seed: the same seed gives the same text."),
        "heal": click.option("--heal", is_flag=True, help="Back up over the prompt's last word, and let the model finish it."),
        "stop": click.option(
            "--stop", multiple=True, metavar="TEXT", help="Stop before this text; may be given several times."
        ),
    }


def _ends(*, guarded: bool) -> dict[str, Decorator]:
    option = functools.partial(click.option, cls=GroupedOption, group=_ENDS)
    kinds = get_args(Boundary)
    guard = "on for greedy decoding" if guarded else "off"
    return {
        "stop_at": option(
            "--stop-at", metavar="|".join(kinds), help="End after a complete one.", shell_complete=suggest.choices(*kinds)
        ),
        "stop_token_ids": option(
            "--stop-token", "stop_token_ids", type=int, multiple=True, metavar="ID", help="End at this token id; repeatable."
        ),
        "min_tokens": option("--min-tokens", type=int, metavar="N", help="No EOS and no --stop-token before N tokens."),
        "ignore_eos": option("--ignore-eos", is_flag=True, help="Never draw EOS."),
        "loop_guard": option(
            "--loop-guard/--no-loop-guard",
            default=None,
            help=f"End a text that repeats itself without end.  [default: {guard}]",
        ),
    }


def _penalties() -> dict[str, Decorator]:
    option = functools.partial(click.option, cls=GroupedOption, group=_PENALTIES)
    return {
        "repetition_penalty": option(
            "--repetition-penalty",
            type=float,
            metavar="R",
            help="Above 1, tokens of the prompt and the completion so far become less likely.",
        ),
        "frequency_penalty": option(
            "--frequency-penalty", type=float, metavar="F", help="Lower a token's logit by F for each time it was generated."
        ),
        "presence_penalty": option(
            "--presence-penalty", type=float, metavar="F", help="Lower the logit of every token that was generated by F."
        ),
        "dry_multiplier": option(
            "--dry-multiplier",
            type=float,
            metavar="M",
            help="DRY: penalize going on with a repetition; 0.8 is usual, 0 is off.",
        ),
        "dry_base": option("--dry-base", type=float, metavar="B", help="DRY: growth with every token of it.  [default: 1.75]"),
        "dry_allowed_length": option(
            "--dry-allowed-length", type=int, metavar="N", help="DRY: shorter repetitions are free.  [default: 2]"
        ),
        "dry_sequence_breakers": option(
            "--dry-sequence-breaker",
            "dry_sequence_breakers",
            multiple=True,
            metavar="TEXT",
            help='DRY: tokens with this text end a repetition; repeatable.  [default: line break, ":", \'"\', "*"]',
        ),
        "logit_bias": option(
            "--logit-bias",
            multiple=True,
            metavar="TOKEN=BIAS",
            callback=_biases,
            help="Add BIAS to the logit of a token: an id, or a text that is one (' Paris=-5'); repeatable.",
        ),
        "ban": option("--ban", multiple=True, metavar="TEXT", help="This text never appears; repeatable."),
    }


def _biases(ctx: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> tuple[tuple[str, float], ...]:
    """TOKEN=BIAS, split at the last equals sign."""
    found = []
    for value in values:
        token, _, added = value.rpartition("=")
        try:
            found.append((token, float(added)))
        except ValueError:
            found.append(("", 0.0))
        if not found[-1][0]:
            raise UsageError(f"--logit-bias {value!r} is not TOKEN=BIAS", "give a token and a number: --logit-bias ' Paris=-5'")
    return tuple(found)
