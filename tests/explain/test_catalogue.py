"""The catalogue of known errors: its form, its commands, and messages quoted from public threads."""

import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest

from openllama_cli.explain.catalogue import TOPICS, KnownError, Rank, find, known_errors, with_olc_code
from tests.support.raising import codes, parse

PACKAGE = Path(__file__).parents[2] / "openllama_cli"
QUOTED = tomllib.loads((Path(__file__).parent / "quoted_messages.toml").read_text())
ENTRIES = known_errors()
by_code = pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.code)


def test_codes_are_unique_and_many() -> None:
    codes = [entry.code for entry in ENTRIES]
    assert len(set(codes)) == len(codes) >= 60
    assert {entry.topic for entry in ENTRIES} == set(TOPICS)


@by_code
def test_an_entry_is_complete_and_recognizes_its_example(entry: KnownError) -> None:
    assert re.fullmatch(r"[a-z][a-z0-9_]*", entry.code)
    assert entry.rank in get_args(Rank)
    assert entry.patterns
    for text in (entry.title, entry.cause, entry.fix, entry.olc):
        assert text == text.strip() != ""
        assert "\n" not in text + entry.example
    assert len(entry.title) <= 70
    assert re.fullmatch(r"https://github\.com/[\w.-]+/[\w.-]+/(issues|pull)/\d+", entry.link)
    assert {*entry.leads_to, *entry.hides} <= {other.code for other in ENTRIES} - {entry.code}
    assert codes(entry.example)[0] == entry.code
    # Python fixes name no command of olc; its own field does, one that exists with its flags.
    assert not re.search(r"`?olc [a-z]+", entry.fix)
    words = shlex.split(entry.olc)
    assert words[0] == "olc"
    parse(words[1:])


def test_patterns_are_looked_for_by_words_rare_enough() -> None:
    for entry in ENTRIES:
        for pattern in entry.patterns:
            assert len(pattern.words.strip()) >= 6, (entry.code, pattern.text)
            assert pattern.words not in ("Error", "error: ", "Exception"), (entry.code, pattern.text)


def quoted() -> Iterator[tuple[str, str, str]]:
    for code, messages in QUOTED.items():
        for message in messages:
            yield code, message["source"], message["text"]


@pytest.mark.parametrize(("code", "source", "text"), list(quoted()))
def test_messages_quoted_from_threads(code: str, source: str, text: str) -> None:
    assert re.fullmatch(r"https://github\.com/[\w.-]+/[\w.-]+/(issues|pull)/\d+", source)
    assert codes(text)[0] == code
    # The same as a Windows log, in color, behind the rank that torchrun puts in front, and quoted in a mail.
    assert codes(text.replace("\n", "\r\n"))[0] == code
    assert codes("".join(f"\x1b[31m{line}\x1b[0m\n" for line in text.splitlines()))[0] == code
    assert codes("".join(f"[rank3]: {line}\n" for line in text.splitlines()))[0] == code
    assert codes("".join(f"> {line}\n" for line in text.splitlines()))[0] == code


def test_every_entry_is_quoted_or_raised() -> None:
    raised = "".join(file.read_text() for file in Path(__file__).parent.glob("test_*.py") if file != Path(__file__))
    for entry in ENTRIES:
        assert entry.code in QUOTED or f'"{entry.code}"' in raised, entry.code


def test_codes_of_olc_exist_and_lead_to_their_entry() -> None:
    sources = [file.read_text() for file in PACKAGE.rglob("*.py")]
    # Each is given where an error is raised, or by a constant of that file.
    known = {code for text in sources for code in re.findall(r'code="(\w+)"', text)}
    for text in sources:
        for name in re.findall(r"code=([A-Z_]+)", text):
            known |= set(re.findall(rf'^{name} = "(\w+)"', text, re.MULTILINE))
    for entry in ENTRIES:
        assert set(entry.olc_codes) <= known, entry.code
        for code in entry.olc_codes:
            assert find(code) in with_olc_code(code)
            assert entry.code in codes(f'{{"error": {{"code": "{code}", "message": "x"}}}}')

    assert find("mixed_devices") is not None
    assert find("no_such_code") is find("") is None
