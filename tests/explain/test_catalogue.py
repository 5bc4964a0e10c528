"""The catalogue of known errors: its form, its commands, and messages quoted from public threads."""

import ast
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from openllama_cli.cli import olc as olc_group
from openllama_cli.explain.catalogue import TOPICS, KnownError, find, known_errors
from openllama_cli.explain.search import explain

PACKAGE = Path(__file__).parents[2] / "openllama_cli"
QUOTED = tomllib.loads((Path(__file__).parent / "quoted_messages.toml").read_text())
ENTRIES = known_errors()
by_code = pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.code)


def codes_in(text: str) -> list[str]:
    return [one.error.code for one in explain([text]).explanations]


def test_codes_are_unique_and_many() -> None:
    codes = [entry.code for entry in ENTRIES]
    assert len(set(codes)) == len(codes) >= 60
    assert {entry.topic for entry in ENTRIES} == set(TOPICS)


@by_code
def test_every_entry_is_complete(entry: KnownError) -> None:
    assert re.fullmatch(r"[a-z][a-z0-9_]*", entry.code)
    for text in (entry.title, entry.cause, entry.fix, entry.olc, entry.example):
        assert text == text.strip() or text == entry.example
        assert text
        assert "\n" not in text
    assert len(entry.title) <= 70
    assert re.fullmatch(r"https://github\.com/[\w.-]+/[\w.-]+/(issues|pull)/\d+", entry.link)


@by_code
def test_every_example_is_recognized_as_itself(entry: KnownError) -> None:
    assert codes_in(entry.example)[0] == entry.code


@by_code
def test_codes_that_entries_refer_to_exist(entry: KnownError) -> None:
    assert {*entry.leads_to, *entry.hides} <= {other.code for other in ENTRIES} - {entry.code}


def test_patterns_are_looked_for_by_words_rare_enough() -> None:
    for entry in ENTRIES:
        for pattern in entry.patterns:
            assert len(pattern.words.strip()) >= 6, (entry.code, pattern.text)
            assert pattern.words not in ("Error", "error: ", "Exception"), (entry.code, pattern.text)


def walk(command: click.Command, words: list[str], parent: click.Context | None) -> None:
    """Parse a command line as click would, subcommands included. Raises click's usage errors."""
    name, *rest = words
    context = command.make_context(name, rest, parent=parent, obj={"debug": False})
    if isinstance(command, click.Group):
        remaining = [*context._protected_args, *context.args]
        assert remaining, f"{name} needs a subcommand"
        _, subcommand, _ = command.resolve_command(context, remaining)
        assert subcommand is not None
        walk(subcommand, remaining, context)


@by_code
def test_the_olc_command_exists_with_its_flags(entry: KnownError) -> None:
    words = shlex.split(entry.olc)
    assert words[0] == "olc"
    walk(olc_group, words, None)


def test_the_check_of_commands_finds_wrong_ones() -> None:
    for wrong in ("olc complete x --nonsense", "olc nonsense", "olc models nonsense", "olc batch x --batch-size"):
        with pytest.raises(click.UsageError):
            walk(olc_group, shlex.split(wrong), None)


def test_python_fixes_name_no_flag_of_olc() -> None:
    for entry in ENTRIES:
        assert not re.search(r"`?olc [a-z]+", entry.fix), entry.code


def quoted() -> Iterator[tuple[str, str, str]]:
    for code, messages in QUOTED.items():
        for message in messages:
            yield code, message["source"], message["text"]


@pytest.mark.parametrize(("code", "source", "text"), list(quoted()))
def test_messages_quoted_from_threads(code: str, source: str, text: str) -> None:
    assert re.fullmatch(r"https://github\.com/[\w.-]+/[\w.-]+/(issues|pull)/\d+", source)
    assert codes_in(text)[0] == code
    # The same as a Windows log, in color, behind the rank that torchrun puts in front, and quoted in a mail.
    assert codes_in(text.replace("\n", "\r\n"))[0] == code
    assert codes_in("".join(f"\x1b[31m{line}\x1b[0m\n" for line in text.splitlines()))[0] == code
    assert codes_in("".join(f"[rank3]: {line}\n" for line in text.splitlines()))[0] == code
    assert codes_in("".join(f"> {line}\n" for line in text.splitlines()))[0] == code


def test_every_entry_is_quoted_or_raised() -> None:
    raised = "".join(file.read_text() for file in Path(__file__).parent.glob("test_*.py") if file != Path(__file__))
    for entry in ENTRIES:
        assert entry.code in QUOTED or f'"{entry.code}"' in raised, entry.code


def olc_codes() -> set[str]:
    """Every code that the package gives to an OlcError, read from the source."""
    codes = set()
    for file in PACKAGE.rglob("*.py"):
        tree = ast.parse(file.read_text())
        constants = {
            node.targets[0].id: node.value.value
            for node in ast.walk(tree)
            if isinstance(node, ast.Assign)
            and isinstance(node.targets[0], ast.Name)
            and isinstance(node.value, ast.Constant)
            and isinstance(node.value.value, str)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.keyword) and node.arg == "code":
                if isinstance(node.value, ast.Constant):
                    codes.add(node.value.value)
                elif isinstance(node.value, ast.Name) and node.value.id in constants:
                    codes.add(constants[node.value.id])
    return codes


def test_codes_of_olc_exist_and_lead_to_their_entry() -> None:
    known = olc_codes()
    for entry in ENTRIES:
        assert set(entry.olc_codes) <= known, entry.code
        for code in entry.olc_codes:
            found = find(code)
            assert found is not None
            assert code in found.olc_codes
            assert found in [one.error for one in explain([f'{{"error": {{"code": "{code}", "message": "x"}}}}']).explanations]


def test_find_knows_codes_only() -> None:
    assert find("mixed_devices") is not None
    assert find("no_such_code") is None
    assert find("") is None
