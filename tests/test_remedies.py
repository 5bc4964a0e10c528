"""Remedies that contain a command: each works as typed, or is listed here with the reason why no test types it.

What the source can say is collected from it: the second argument of every error, and the fixes of `olc devices`. Commands of
olc must parse; those of `test_remedy_works_in_the_situation_that_prints_it` are taken from the screen and run.
"""

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import openllama_cli
from openllama_cli.cli import COMMANDS as COMMAND_NAMES
from openllama_cli.cli import olc as table
from openllama_cli.models.find import write_default
from tests.conftest import Olc
from tests.support.hub.fixtures import WHOLE, cache, server
from tests.support.hub.server import HubServer

__all__ = ["cache", "server"]

SOURCE = Path(openllama_cli.__file__).parent
# Beginnings of commands that no test types, and why.
NOT_TYPED = {
    "pip install": "it would install packages",
    "pip uninstall": "it would remove packages",
    "git lfs": "it needs a clone with Git LFS",
    "hf auth": "it asks for a token",
    "ray": "it starts and asks clusters; tests/commands/batch/test_ray.py runs them",
    "nvidia-smi": "it needs an NVIDIA GPU",
    "dmesg": "it needs the rights of an administrator",
    "unset": "of the shell",
    "export": "of the shell",
    "HF_HOME=": "it downloads gigabytes",
    "XDG_CACHE_HOME=": "it writes gigabytes",
    "iconv": "tests/batch/input types those that name a file",
    "jq": "tests/batch/input types those that name a file",
    "nlp.to_disk": "Python",
    "spacy train": "it trains a pipeline",
    ">&-": "a redirection to take away",
}
WORDS = {"MODEL": "demo", "FORMAT": "txt", "FILE": "x.txt"}


def _text(node: ast.expr) -> str:
    """A text as it may be said, {} for what is filled in."""
    match node:
        case ast.Constant(value=str(value)):
            return value
        case ast.JoinedStr(values=values):
            return "".join(_text(part) for part in values)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return _text(left) + _text(right)
        case ast.IfExp(body=body, orelse=other):
            return f"{_text(body)} ; {_text(other)}"
    return "{}"


def _remedies() -> Iterator[tuple[str, str]]:
    for file in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
                if name.endswith("Error") or name == "Problem":
                    place = f"{file.relative_to(SOURCE)}:{node.lineno}"
                    remedies = [
                        *node.args[1:2],
                        *node.args[3:4],
                        *(k.value for k in node.keywords if k.arg in ("remedy", "fix")),
                    ]
                    yield from ((place, _text(remedy)) for remedy in remedies)


def _commands(remedy: str) -> list[str]:
    """The commands in a remedy: in backticks, or olc's own at the end of a sentence."""
    quoted = re.findall(r"`([^`]+)`", remedy)
    names = "|".join(COMMAND_NAMES)
    plain = re.findall(rf"(?:^|[:;(] )((?:olc (?:{names})|pip install)\b[^;()]*)", re.sub("`[^`]*`", "", remedy))
    return [part.strip() for command in (*quoted, *plain) for part in re.split(r"&&|\|", command)]


def test_commands_of_remedies_parse_or_are_listed() -> None:
    commands = sorted({(command, place) for place, remedy in _remedies() for command in _commands(remedy)})
    assert len(commands) > 30
    assert len([command for command, _ in commands if command.startswith("olc ")]) > 15
    for command, place in commands:
        if re.match(r"olc [a-z]", command):
            try:
                _parse(command)
            except (AssertionError, click.ClickException) as error:
                pytest.fail(f"{place}: `{command}`: {error}")
        else:
            # A single word, such as a name of a file or a field, is no command.
            listed = " " not in command or command.startswith(tuple(NOT_TYPED)) or command.startswith("{}")
            assert listed, f"{place}: `{command}`"


def _parse(command: str) -> None:
    words = [WORDS.get(word, word).replace("{}", "demo").replace("…", "x") for word in shlex.split(command.rstrip(".,"))][1:]
    assert words[0] in table.list_commands(click.Context(table))
    with table.make_context("olc", words, obj={"debug": False}) as context:
        group: click.Command = table
        while isinstance(group, click.Group):
            name, found, rest = group.resolve_command(context, words)
            assert found is not None
            if not rest and any(parameter.required for parameter in found.params):
                return  # "olc models rm" as the name of a command, not as one to type.
            group, words = found, rest
            context = found.make_context(name, list(rest), parent=context)


def fix_of(messages: str) -> str:
    return next(line for line in messages.splitlines() if line.startswith("  fix: ")).removeprefix("  fix: ")


@pytest.fixture
def world(server: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> HubServer:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path)
    server.add("org/tiny", WHOLE)
    return server


@pytest.mark.parametrize(
    ("situation", "typed"),
    [
        (["models", "info", "org/tiny"], ["models", "pull", "org/tiny"]),
        (["tokenize", "x", "-m", "org/tiny", "--offline"], ["models", "pull", "org/tiny"]),
        (["models", "rm", "org/tiny", "--yes"], ["models", "list"]),
        (["tokenize", "x", "-m", "gpt9"], ["models", "list"]),
        (["tokenize", "x", "-m", "./gone"], ["models", "list"]),
        (["tokenize", "two", "words"], ["tokenize", "two words"]),
        (["pull", "org/tiny"], ["--help"]),
        (["models", "pull"], ["models", "pull", "--help"]),
        (["tokenize", "--nonsense"], ["tokenize", "--help"]),
    ],
    ids=lambda words: " ".join(words),
)
def test_remedy_works_in_the_situation_that_prints_it(
    olc: Olc, world: HubServer, situation: list[str], typed: list[str]
) -> None:
    failed = olc(*situation)
    assert failed.code != 0
    assert f"olc {shlex.join(typed)}" in fix_of(failed.messages)
    assert olc(*typed).code == 0, "the remedy works as typed"


def test_default_that_cannot_be_used_is_unset_as_the_error_says(
    olc: Olc, world: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_default("org/absent")
    failed = olc("tokenize", "x")
    assert failed.code == 1
    (command,) = (found for found in re.findall("`olc ([^`]+)`", fix_of(failed.messages)) if "unset" in found)
    assert olc(*shlex.split(command)).code == 0
    assert olc("tokenize", "x").code == 0
