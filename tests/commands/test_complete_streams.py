"""`olc complete`: pipes, files and terminals, what they close, and signals."""

import os
import signal
from pathlib import Path

import pytest

from openllama_cli.terminal.streams import visible
from tests.conftest import Olc
from tests.support.forked import Forked
from tests.support.terminals import on_a_terminal
from tests.support.tiny_models import write_tiny_llama

PROMPT = "Q: What is the largest animal?"


def test_the_prompt_comes_from_stdin_or_a_file_byte_for_byte(olc: Olc, model: str, tmp_path: Path) -> None:
    arguments = ("complete", "--echo", "-n", "0", "-m", model)
    assert olc(*arguments, stdin="  ñ 🐋\n".encode()).out == "  ñ 🐋\n\n".encode()
    assert olc(*arguments, "-", stdin=b"x").out == b"x\n"
    file = tmp_path / "in.txt"
    file.write_bytes(b"  two\r\nlines \n\n")
    assert olc(*arguments, "-f", str(file)).out == b"  two\r\nlines \n\n\n"
    with file.open("rb") as stream:
        assert olc(*arguments, stdin=stream.fileno()).out == b"  two\r\nlines \n\n\n"


def test_with_a_prompt_stdin_is_left_alone(model: str) -> None:
    read_end, write_end = os.pipe()
    try:
        os.write(write_end, b"the loop's next line\n")
        # The pipe stays open: reading it to the end would hang.
        run = Forked("complete", "x", "--echo", "-n", "0", "-m", model, stdin=read_end)
        assert (run.wait(), run.out) == (0, b"x\n")
        assert os.read(read_end, 100) == b"the loop's next line\n"
    finally:
        os.close(read_end)
        os.close(write_end)


def test_a_prompt_that_is_not_utf8_is_named(olc: Olc, model: str) -> None:
    result = olc("complete", "-m", model, stdin=b"caf\xe9")
    assert result.code == 2
    assert "0xe9 at offset 3" in result.messages


def test_a_closed_pipe_ends_quietly(model: str) -> None:
    read_end, write_end = os.pipe()
    run = Forked("complete", PROMPT, "-n", "200", "-m", model, stdout=write_end)
    os.close(write_end)
    os.close(read_end)
    assert (run.wait(), run.err) == (0, b"")


def test_a_terminal_shows_the_prompt_dim_and_the_completion_after_it(olc: Olc, model: str) -> None:
    arguments = ("complete", PROMPT, "-n", "5", "-m", model, "--dtype", "float32")
    expected = olc(*arguments).text
    assert f"\x1b[2m{PROMPT}\x1b[0m" in on_a_terminal(*arguments, columns=60)
    assert on_a_terminal(*arguments, columns=60, NO_COLOR="1", TERM="dumb") == f"{PROMPT}{visible(expected)}"


def test_control_characters_of_a_prompt_are_shown_escaped_on_a_terminal(model: str) -> None:
    shown = on_a_terminal("complete", "a\x1b]0;owned\x07b [bold]c[/bold]", "-n", "0", "-m", model, columns=60)
    assert r"a\x1b]0;owned\x07b [bold]c[/bold]" in shown
    assert "\x1b]0;" not in shown


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_amid_the_text_ends_with_its_code_and_no_traceback(tmp_path: Path, number: signal.Signals, code: int) -> None:
    # Large enough to be still at work when the signal comes.
    model = write_tiny_llama(tmp_path / "slow", context=20000, layers=6)
    read_end, write_end = os.pipe()
    with (
        Forked("complete", PROMPT, "-n", "15000", "-m", str(model), stdout=write_end) as run,
        os.fdopen(read_end, "rb") as text,
    ):
        os.close(write_end)
        assert text.read(1)
        run.send_signal(number)
        text.read()
        assert run.wait(30) == code
        assert b"Traceback" not in run.err
