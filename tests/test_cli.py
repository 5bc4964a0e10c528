"""What the shell sees of `olc` whatever the command: exit codes, and streams that are closed, full or not read."""

import os
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from openllama_cli.cli import COMMANDS
from tests.conftest import Olc, olc_command
from tests.support.terminals import on_a_terminal, without_color

TOKENIZE = ("tokenize", "the quick", "-m")
# Writes a result and a notice.
DEFAULT = ("models", "default")
WRONG = ("complete", "x", "--top-p", "2")


def shell(redirection: str, arguments: Sequence[str]) -> subprocess.CompletedProcess[bytes]:
    """Run olc under a shell that has redirected its streams."""
    return subprocess.run(
        ["bash", "-c", f'"$@" {redirection}', "bash", *olc_command(*arguments)],
        capture_output=True,
        stdin=subprocess.DEVNULL,
        timeout=120,
    )


def unread(arguments: Sequence[str], stream: str) -> tuple[int, bytes, bytes]:
    """Run olc with "stdout" or "stderr" a pipe whose reader has gone before it began."""
    reader, writer = os.pipe()
    os.close(reader)
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL} | {stream: writer}
    run = subprocess.run(olc_command(*arguments), timeout=120, check=False, **streams)  # type: ignore[call-overload]
    os.close(writer)
    return run.returncode, run.stdout or b"", run.stderr or b""


needs_full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")


@pytest.mark.parametrize(
    ("redirection", "arguments", "cause"),
    [
        (">&-", TOKENIZE, b"stdout is closed"),
        pytest.param(">/dev/full", TOKENIZE, b"the result cannot be written to stdout: No space left on", marks=needs_full),
        pytest.param(">/dev/full", ["--help"], b"the result cannot be written to stdout: No space", marks=needs_full),
        pytest.param(">/dev/full", ["complete", "--help"], b"the result cannot be written to stdout", marks=needs_full),
        ("1</dev/null", ["--help"], b"the result cannot be written to stdout: Bad file"),
    ],
)
def test_a_closed_or_full_stdout_is_two_lines(
    tiny_model: Path, redirection: str, arguments: Sequence[str], cause: bytes
) -> None:
    run = shell(redirection, [*TOKENIZE, str(tiny_model)] if arguments is TOKENIZE else arguments)
    assert run.returncode == 1
    assert run.stderr.startswith(b"error: " + cause)
    assert run.stderr.count(b"\n") == 2


@needs_full
@pytest.mark.parametrize("arguments", [[], ["models"]], ids=["olc", "olc models"])
def test_help_that_a_full_stderr_does_not_take_is_wrong_usage_all_the_same(arguments: list[str]) -> None:
    assert shell("2>/dev/full", arguments).returncode == 2


def test_a_stderr_that_is_closed_full_or_not_read_costs_the_result_nothing() -> None:
    whole = shell("", DEFAULT)
    assert whole.stdout
    assert whole.stderr
    for redirection in ("2>&-", "2>/dev/full"):
        run = shell(redirection, DEFAULT)
        assert (run.returncode, run.stdout) == (0, whole.stdout)
        assert shell(redirection, WRONG).returncode == 2
    assert unread(DEFAULT, "stderr")[:2] == (0, whole.stdout)
    assert unread(WRONG, "stderr")[0] == 2


@pytest.mark.parametrize("arguments", [["complete", "--help"], ["models", "list"]], ids=" ".join)
def test_a_reader_that_has_gone_ends_it_quietly(arguments: list[str]) -> None:
    assert unread(arguments, "stdout") == (0, b"", b"")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(olc: Olc, command: str) -> None:
    result = olc(command, "--help")
    assert result.code == 0
    assert f"olc {command}" in result.text.split("Example", 1)[1]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["pull", "3b-v2"], "olc models pull"),
        (["list"], "olc models list"),
        (["ls"], "olc models list"),
        (["run", "3b"], "olc complete"),
        (["models", "pull"], "olc models pull --help"),
        (["batch"], "olc batch --help"),
        (["complete", "What", "is", "the", "largest", "animal"], "olc complete 'What is the largest animal'"),
        (["tokenize", "two", "words"], "olc tokenize 'two words'"),
        (["complete", "-n", "3", "two", "words", "--dtype", "auto"], "olc complete 'two words' -n 3 --dtype auto; see"),
        (["complete", "x", "--stop", "- x", "-n", "abc"], "see `olc complete --help`"),
        (["complete", "-Hello"], "--"),
        (["generate", "x", "--logprobs", "3"], "--logprobs takes no number here"),
        (["models", "rm"], "olc models rm --help"),
    ],
)
def test_what_people_type_by_habit_is_answered_with_what_to_type(olc: Olc, arguments: list[str], says: str) -> None:
    run = olc(*arguments)
    assert run.code == 2
    assert run.messages.count("\n") == 2
    assert says in run.messages


@pytest.mark.parametrize(
    ("arguments", "typed"),
    [
        (["complete", "- a list's item"], ["complete", "--", "- a list's item"]),
        (["complete", "-5 degrees", "--max-tokens", "3"], ["complete", "--max-tokens", "3", "--", "-5 degrees"]),
        (["tokenize", "-n is here"], ["tokenize", "--", "-n is here"]),
    ],
)
def test_a_text_that_begins_with_a_dash_is_told_to_stand_after_two(olc: Olc, arguments: list[str], typed: list[str]) -> None:
    result = olc(*arguments)
    assert result.code == 2
    assert f"after --: {shlex.join(['olc', *typed])}" in result.messages


def test_a_command_in_a_remedy_is_one_line_however_narrow_the_terminal(tiny_model: Path) -> None:
    text = ["Q:", "What", "is", "the", "largest", "animal", "in", "the", "world?"]
    shown = without_color(on_a_terminal("complete", *text, "-m", str(tiny_model), columns=40, code=2)).splitlines()
    assert f"olc complete '{' '.join(text)}' -m {tiny_model};" in shown
    assert shown[-1] == "see `olc complete --help`"
