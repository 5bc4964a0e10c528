"""Raising an error, what `olc explain` makes of it, and whether the commands that fixes name can be typed."""

import traceback
from collections.abc import Callable, Sequence
from typing import Any

import click

from openllama_cli.cli import olc
from openllama_cli.explain.search import explain


def raised(function: Callable[[], Any]) -> str:
    """The traceback of what a function raises, as Python prints it."""
    try:
        function()
    except BaseException:
        return traceback.format_exc()
    raise AssertionError("nothing was raised")


def codes(text: str) -> list[str]:
    return [one.error.code for one in explain([text]).explanations]


def first(function: Callable[[], Any]) -> str:
    """The code that explains what a function raises."""
    text = raised(function)
    found = codes(text)
    assert found, text
    return found[0]


def parse(words: Sequence[str]) -> dict[str, Any]:
    """Parse the words after "olc" as click would, subcommands included, without running anything. Raises click's errors.

    Returns the parameters of the last subcommand.
    """
    command: click.Command = olc
    context, rest = olc.make_context("olc", list(words), obj={"debug": False}), list(words)
    while isinstance(command, click.Group):
        name, found, rest = command.resolve_command(context, rest)
        assert found is not None
        command, context = found, found.make_context(name, list(rest), parent=context, obj={"debug": False})
    return context.params
