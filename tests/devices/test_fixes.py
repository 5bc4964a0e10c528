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
from tests.support.raising import parse

# What is not ours to parse.
OTHERS = {"pip", "unset", "nvidia-smi"}
FIXES = sorted({problem.fix for name in MACHINES for problem in problems(name)})


def check(typed: str) -> None:
    """Check what stands between two backticks. Raises click's errors, and UsageError."""
    words = shlex.split(typed)
    while re.fullmatch(r"[A-Z_]+=.*", words[0]):
        del words[0]
    if words[0].startswith("--"):
        words = ["olc", "complete", "x", *words]
    if words[0] == "olc":
        given = parse(words[1:])
        ModelSpec(**{name: given[name] for name in ("model", "device", "dtype") if given.get(name)})
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
        "olc batch x --batch-size",
        "--quantize",
        "rm -rf",
    ],
)
def test_what_cannot_be_typed_is_found_by_this_test(typed: str) -> None:
    with pytest.raises((click.ClickException, AssertionError, cli.OlcError)):
        check(typed)
