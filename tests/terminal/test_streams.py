"""What reaches a terminal or a pipe: escapes, tables, sizes."""

import io
import json
import re
import sys
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openllama_cli.system.memory import size
from openllama_cli.terminal.streams import error, notice, one_line, out, out_json, stdout_console, visible
from openllama_cli.terminal.tables import fields, table, wrapped


@given(st.text())
def test_what_is_shown_has_no_control_characters_but_newline_and_tab(text: str) -> None:
    shown = visible(text + "\x1b[31m\x9b\x7f\r\x00\ud800")
    assert not any((ord(c) < 32 and c not in "\n\t") or 127 <= ord(c) < 160 or 0xD800 <= ord(c) < 0xE000 for c in shown)


@given(st.text(st.one_of(st.characters(exclude_categories=["Cc", "Cs", "Cf", "Zl", "Zp"]), st.sampled_from("\u200c\u200d"))))
def test_printable_text_of_any_script_is_left_alone(text: str) -> None:
    assert visible(text) == text


SCOTLAND = "\U0001f3f4\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f"
REORDERING = [*range(0x202A, 0x202F), *range(0x2066, 0x2070), 0x200E, 0x200F, 0x61C, 0x2028, 0x2029, 0xFFF9, 0xE0001, 0xE0041]


@pytest.mark.parametrize("code", REORDERING, ids=hex)
def test_what_reorders_or_hides_text_is_shown_on_a_terminal(code: int) -> None:
    name = f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
    assert visible(f"a{chr(code)}b") == f"a{name}b"
    assert one_line(f"a{chr(code)}b") == f"a{name}b"


def test_emoji_keep_their_joiners_selectors_and_tags(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    assert visible(f"👩\u200d🚀 ❤\ufe0f {SCOTLAND}") == f"👩\u200d🚀 ❤\ufe0f {SCOTLAND}"
    table(["a\u202e"], [["b\u2066\x1b"]])
    out("c\u202e")
    assert capfdbinary.readouterr().out == "a\u202e\nb\u2066\\x1b\nc\u202e".encode(), "a pipe gets them as they are"


def test_messages_stay_on_one_line() -> None:
    assert one_line("a\nb\tc\x1b") == r"a\nb\tc\x1b"


def test_a_pipe_gets_the_bytes_as_they_are(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    out("[bold]x[/bold] \x1b[0m :smile: ñ\r\n", style="red")
    out_json({"text": "ñ\x1b"})
    assert capfdbinary.readouterr().out == "[bold]x[/bold] \x1b[0m :smile: ñ\r\n".encode() + '{"text": "ñ\\u001b"}\n'.encode()


def test_messages_go_to_stderr_without_markup(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    notice("model [/tmp/x] :smile:")
    error("no [such] file\nx", "check [it]")
    captured = capfdbinary.readouterr()
    assert captured.out == b""
    assert captured.err == b"model [/tmp/x] :smile:\nerror: no [such] file\\nx\n  fix: check [it]\n"


def test_a_table_in_a_pipe_is_tab_separated(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    table(["a", "b"], [["1", "x\ty"], ["[2]", ""]])
    fields([("name", "line\nbreak")])
    assert capfdbinary.readouterr().out == b"a\tb\n1\tx\\ty\n[2]\t\nname\tline\\nbreak\n"


def screen(monkeypatch: pytest.MonkeyPatch, width: int) -> io.StringIO:
    """A terminal in the place of stdout. No fixture: pytest gives stdout anew between set-up and test."""

    class Screen(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Screen()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", str(width))
    # The console reads its width when it is made.
    stdout_console.cache_clear()
    return terminal


@pytest.fixture(autouse=True)
def fresh_console() -> Iterator[None]:
    yield
    stdout_console.cache_clear()


def plain(shown: io.StringIO) -> list[str]:
    return re.sub(r"\x1b\[[0-9;]*m", "", shown.getvalue()).splitlines()


def test_a_table_on_a_terminal_wraps_in_its_column(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = screen(monkeypatch, 30)
    table(["name", "what"], [["x", "a long description [bold] that wraps"]])
    lines = plain(shown)
    assert all(len(line) <= 30 for line in lines)
    assert len(lines) > 2
    assert "[bold]" in shown.getvalue()


@pytest.mark.parametrize(("width", "columns"), [(60, "name size where"), (25, "name size"), (10, "name")])
def test_a_narrow_terminal_is_spared_optional_columns(monkeypatch: pytest.MonkeyPatch, width: int, columns: str) -> None:
    shown = screen(monkeypatch, width)
    table(["name", "size", "where"], [["a", "12 GB", "a/long/path/to/it"]], optional=["where", "size"])
    assert plain(shown)[0].split() == columns.split()


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (123456, "123 kB"), (6.86e9, "6.9 GB"), (2.6e10, "26.0 GB")],
)
def test_sizes_are_in_powers_of_a_thousand(count: float, text: str) -> None:
    assert size(count) == text


def test_commands_are_never_cut_by_a_line_break(monkeypatch: pytest.MonkeyPatch) -> None:
    command = "olc complete -m openlm-research/open_llama_3b_v2 --device cpu"
    lines = [line.plain for line in wrapped(f"run `{command}`, or get a larger machine", 30)]
    assert lines == ["run", command, ", or get a larger machine"]
    assert [line.plain for line in wrapped("a `b c` d", 30)] == ["a b c d"]
    terminal = screen(monkeypatch, 40)
    fields([("run", command), ("short", "words that are wrapped where they have a space")], commands=["run"])
    shown = re.sub(r"\x1b\[[0-9;]*m", "", terminal.getvalue()).splitlines()
    assert command in shown
    assert max(len(line) for line in shown if line != command) <= 40


def test_json_on_a_terminal_stays_json(monkeypatch: pytest.MonkeyPatch) -> None:
    document = {"text": "a\u202eb\x7fc\x9bd\U000e0041e" + SCOTLAND}
    terminal = screen(monkeypatch, 200)
    out_json(document)
    assert json.loads(terminal.getvalue()) == document
    assert not {"\u202e", "\x7f", "\x9b"} & set(terminal.getvalue())
