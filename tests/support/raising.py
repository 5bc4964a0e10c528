"""Raising an error, and what `olc explain` makes of it."""

import traceback
from collections.abc import Callable
from typing import Any

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
