"""The catalogue of known errors: its form, its commands, and messages quoted from public threads."""

import ast
import contextlib
import re
import shlex
import tomllib
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import get_args

import pytest

from openllama_cli.explain.catalogue import TOPICS, KnownError, Rank, find, known_errors, patterns, with_olc_code
from tests.support.raising import codes, parse

PACKAGE = Path(__file__).parents[2] / "openllama_cli"
QUOTED = tomllib.loads((Path(__file__).parent / "quoted_messages.toml").read_text())
ENTRIES = known_errors()
THREAD = r"https://github\.com/[\w.-]+/[\w.-]+/(issues|pull)/\d+"
# Their messages are those of the libraries' sources.
FROM_SOURCES = {
    "accelerator_argument_removed",
    "apply_chat_template_missing",
    "cache_form_changed",
    "cuda_toolkit_missing",
    "flash_not_compiled",
    "fp16_without_gpu",
    "hub_proxy_socks",
    "llama_internals_changed",
    "loss_nan",
    "merge_quantised",
    "name_too_long",
    "ray_task_failed",
    "remote_code_packages",
    "removed_in_transformers_4_42",
    "removed_in_transformers_4_51",
    "removed_in_transformers_4_56",
    "spacy_factory_missing",
    "storage_failed",
    "torch_six_removed",
    "triton_missing",
}
# Commands that fixes name, some behind settings of the environment.
SHELL = re.compile(
    r"(?:[A-Z_]+=\S+ )*(?:(?:~/venv/bin/|fresh/bin/)?python3?|torchrun|conda|hf|git|export|unset|set|docker|sudo|ls|df|head"
    r"|lsof|ldd|ray|lscpu|nvidia-smi|echo|ulimit)\b|\$env:"
)
by_topic = pytest.mark.parametrize("topic", TOPICS)


def entries(topic: str) -> Iterator[KnownError]:
    return (entry for entry in ENTRIES if entry.topic == topic)


@contextlib.contextmanager
def about(code: str) -> Iterator[None]:
    """What fails inside says which entry it is."""
    try:
        yield
    except BaseException as error:
        error.add_note(code)
        raise


def test_codes_are_unique_and_many() -> None:
    codes = [entry.code for entry in ENTRIES]
    assert len(set(codes)) == len(codes) >= 200
    assert {entry.topic for entry in ENTRIES} == set(TOPICS)


@by_topic
def test_an_entry_is_complete_and_recognizes_its_example(topic: str) -> None:
    for entry in entries(topic):
        with about(entry.code):
            check_complete(entry)


def check_complete(entry: KnownError) -> None:
    assert re.fullmatch(r"[a-z][a-z0-9_]*", entry.code)
    assert entry.rank in get_args(Rank)
    assert entry.patterns
    for text in (entry.title, entry.cause, entry.fix):
        assert text == text.strip() != ""
        assert "\n" not in entry.title + entry.cause + entry.olc + entry.link + entry.example
    assert len(entry.title) <= 70
    assert not entry.link or re.fullmatch(THREAD, entry.link)
    assert {*entry.leads_to, *entry.hides} <= {other.code for other in ENTRIES} - {entry.code}
    assert codes(entry.example)[0] == entry.code
    # Python fixes name no command of olc; its own field does, one that exists with its flags, where olc avoids the error.
    assert not re.search(r"`?olc [a-z]+", entry.fix)
    if entry.olc:
        words = shlex.split(entry.olc)
        assert words[0] == "olc"
        parse(words[1:])


@by_topic
def test_code_to_paste_stands_on_lines_of_its_own(topic: str) -> None:
    """Each block is Python that compiles, or commands of a shell."""
    for entry in entries(topic):
        with about(entry.code):
            check_code(entry)


def check_code(entry: KnownError) -> None:
    for is_code, group in groupby(entry.fix.split("\n"), lambda line: line.startswith("    ")):
        lines = [line.removeprefix("    ") for line in group]
        if not is_code:
            assert not re.search(r"pip install|\w = \w+\.from_pretrained", " ".join(lines))
        elif not all(map(SHELL.match, lines)):
            ast.parse("\n".join(lines))


def test_what_is_read_first_is_what_the_files_hold() -> None:
    """Codes and patterns are read without parsing TOML."""
    folder = PACKAGE / "explain" / "errors"
    whole = {topic: tomllib.loads((folder / f"{topic}.toml").read_text()) for topic in TOPICS}
    assert {file.stem for file in folder.glob("*.toml")} == set(TOPICS)
    assert [(entry.topic, entry.code) for entry in ENTRIES] == [(topic, code) for topic in TOPICS for code in whole[topic]]
    read = [(code, pattern.text, pattern.of_source) for code, pattern in patterns()]
    assert read == [(entry.code, pattern.text, pattern.of_source) for entry in ENTRIES for pattern in entry.patterns]
    fields = [(code, entry) for topic in TOPICS for code, entry in whole[topic].items()]
    lines = [(code, entry.get(name, "")) for code, entry in fields for name in ("patterns", "source_patterns")]
    assert sorted((code, text) for code, text, _ in read) == sorted(
        (code, text) for code, all_ in lines for text in all_.splitlines()
    )


def test_patterns_are_looked_for_by_words_rare_enough() -> None:
    for entry in ENTRIES:
        for pattern in entry.patterns:
            assert len(pattern.words.strip()) >= 6, (entry.code, pattern.text)
            assert pattern.words not in ("Error", "error: ", "Exception"), (entry.code, pattern.text)


@by_topic
def test_messages_quoted_from_threads(topic: str) -> None:
    for entry in entries(topic):
        for message in QUOTED.get(entry.code, ()):
            with about(f"{entry.code}: {message['text']}"):
                assert re.fullmatch(THREAD, message["source"])
                assert codes(message["text"])[0] == entry.code


def test_every_code_that_is_quoted_has_its_entry() -> None:
    assert QUOTED.keys() <= {entry.code for entry in ENTRIES}


def test_every_entry_is_quoted_or_raised() -> None:
    raised = "".join(file.read_text() for file in Path(__file__).parent.glob("test_*.py") if file != Path(__file__))
    for entry in ENTRIES:
        known = entry.code in QUOTED or f'"{entry.code}"' in raised or entry.code in FROM_SOURCES
        assert known or entry.rank == "general", entry.code


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
