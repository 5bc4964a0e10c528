"""Every fix can be typed: its commands parse, their flags exist, and no problem is left without a test of its fix."""

import re
import shlex
from pathlib import Path

import click
import pytest

from openllama_cli import cli
from openllama_cli.devices import advice
from openllama_cli.models.spec import ModelSpec
from tests.devices.test_advice import MACHINES, problems

# What is not ours to parse.
OTHERS = {"pip", "unset", "nvidia-smi"}
FIXES = sorted({problem.fix for name in MACHINES for problem in problems(name)})


def parse(words: list[str]) -> None:
    """Parse the words after "olc" as olc would, without running anything. Raises click's errors, and UsageError."""
    context = cli.olc.make_context("olc", list(words), obj={})
    command: click.Command = cli.olc
    rest = list(words)
    while isinstance(command, click.Group):
        name, found, rest = command.resolve_command(context, rest)
        assert found is not None
        command, context = found, found.make_context(name, list(rest), parent=context)
    given = {name: context.params[name] for name in ("model", "device", "dtype") if context.params.get(name)}
    ModelSpec(**given)


def check(typed: str) -> None:
    """Check what stands between two backticks."""
    words = shlex.split(typed)
    while re.fullmatch(r"[A-Z_]+=.*", words[0]):
        del words[0]
    if words[0].startswith("--"):
        parse(["complete", "x", *words])
    elif words[0] == "olc":
        parse(words[1:])
    else:
        assert words[0] in OTHERS


@pytest.mark.parametrize("fix", FIXES)
def test_everything_in_backticks_can_be_typed(fix: str) -> None:
    commands = re.findall(r"`([^`]+)`", fix)
    assert commands, "a fix names something to type"
    for typed in commands:
        check(typed)
    # Nor does olc, or a flag, stand outside of backticks, where this test would not see it.
    rest = re.sub(r"`[^`]+`", "", fix)
    assert not re.search(r"\bolc [a-z]|--[a-z]", rest)


def test_every_problem_there_is_has_its_machine() -> None:
    codes = set(re.findall(r'Problem\(\s*[^,]+,\s*"(\w+)"', Path(advice.__file__).read_text()))
    assert len(codes) > 20
    assert codes == {problem.code for name in MACHINES for problem in problems(name)}


@pytest.mark.parametrize(
    "typed",
    [
        "olc complete --no-such-flag",
        "olc nonsense",
        "olc complete --device toaster",
        "olc models nonsense",
        "--quantize",
        "rm -rf",
    ],
)
def test_what_cannot_be_typed_is_found_by_this_test(typed: str) -> None:
    with pytest.raises((click.ClickException, AssertionError, cli.OlcError)):
        check(typed)
