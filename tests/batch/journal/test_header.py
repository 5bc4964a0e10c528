"""Fingerprints of models, and the words for what changed between two runs."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from openllama_cli.batch.journal.header import differences
from openllama_cli.models.fingerprint import config_files, model_fingerprint


def test_a_model_is_the_same_in_another_folder_and_order(tmp_path: Path) -> None:
    files = {"config.json": b"{}", "model-00001-of-00002.safetensors": b"1", "model-00002-of-00002.safetensors": b"2"}
    made = []
    for name in ("a", "b"):
        folder = tmp_path / name
        folder.mkdir()
        for file, content in files.items():
            (folder / file).write_bytes(content)
        made.append(sorted(folder.iterdir(), reverse=name == "b"))
    assert model_fingerprint(made[0]) == model_fingerprint(made[1])
    assert model_fingerprint(made[0], revision="abc") != model_fingerprint(made[1])
    assert list(model_fingerprint(made[0])["files"]) == list(files)


def test_every_file_that_decides_ids_belongs_to_the_model(tmp_path: Path) -> None:
    names = ["added_tokens.json", "config.json", "special_tokens_map.json", "tokenizer.json", "tokenizer_config.json"]
    for name in (*names, "README.md"):
        (tmp_path / name).write_text("{}")
    opened: Any = SimpleNamespace(checkpoint=SimpleNamespace(path=tmp_path))
    assert sorted(file.name for file in config_files(opened)) == names


FILES = {"a.safetensors": {"bytes": 1, "sha256": "x"}, "b.safetensors": {"bytes": 1, "sha256": "y"}}
HEADER: dict[str, Any] = {
    "rows": 3,
    "input": {"sha256": "aa", "rows": 3},
    "model": {"revision": "r1", "dtype": "float32", "files": FILES},
    "tokenizer": "cc",
    "template": {"name": "qa", "sha256": "dd"},
    "options": {"temperature": 0, "stop": [], "seed": None, "max_tokens": 64, "ignore_eos": False},
    "olc": "0.1",
}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, []),
        ({"rows": 4, "input": {"sha256": "ab", "rows": 4}}, ["the input had 3 rows, now 4"]),
        ({"input": {"sha256": "ab", "rows": 3}}, ["the input's rows changed"]),
        ({"input": HEADER["input"] | {"rows_sha256": "x"}}, ["what is taken from the rows changed (--carry, options)"]),
        (
            {"model": HEADER["model"] | {"files": {}}},
            ["the model's file a.safetensors was removed", "the model's file b.safetensors was removed"],
        ),
        (
            {"model": {"revision": "r2", "files": FILES | {"b.safetensors": {"bytes": 1, "sha256": "z"}}}},
            ["the model's file b.safetensors changed"],
        ),
        (
            {"model": {"revision": "r2", "dtype": "bfloat16", "files": FILES}},
            ["the model's revision was r1, now r2", "the model's dtype was float32, now bfloat16"],
        ),
        ({"tokenizer": "ce"}, ["the tokenizer changed"]),
        # Another template makes other prompts of the same rows, and other examples do.
        ({"input": HEADER["input"] | {"rows_sha256": "x"}, "template": None}, ["a template was used, now none is"]),
        (
            {
                "input": HEADER["input"] | {"rows_sha256": "x"},
                "options": HEADER["options"] | {"examples": "aa:a.csv", "shots": 2},
            },
            ["--examples was not given, now aa:a.csv", "--shots was not given, now 2"],
        ),
        ({"template": None}, ["a template was used, now none is"]),
        ({"template": {"name": "qa", "sha256": "de"}}, ["the template changed"]),
        ({"template": {"name": "code", "sha256": "de"}}, ["the template was qa, now code"]),
        (
            {"options": {"temperature": 0.8, "stop": ["\n", "Q:"], "seed": 7, "max_tokens": 64, "ignore_eos": True}},
            [
                "--temperature was 0, now 0.8",
                '--stop was [], now ["\\n", "Q:"]',
                "--seed was not given, now 7",
                "--ignore-eos was off, now on",
            ],
        ),
        ({"options": HEADER["options"] | {"dtype": "auto"}}, ["--dtype was not given, now auto"]),
        ({"olc": "0.2"}, ["olc was 0.1, now 0.2"]),
    ],
)
def test_what_changed_is_said_by_name(change: dict[str, Any], said: list[str]) -> None:
    assert differences(HEADER, HEADER | change) == said


sections = st.dictionaries(
    st.sampled_from(["files", "name", "sha256", "rows", "a_b", "ü\n"]),
    st.none() | st.booleans() | st.integers() | st.text(max_size=50) | st.just(FILES) | st.just({"a.safetensors": None}),
    max_size=3,
)
headers = st.dictionaries(
    st.sampled_from([*HEADER, "other"]), sections | st.none() | st.text(max_size=5) | st.integers(), max_size=5
)


def without_nothing(value: Any) -> Any:
    """A header without what is None in it."""
    if not isinstance(value, dict):
        return value
    return {name: without_nothing(inner) for name, inner in value.items() if inner is not None}


@given(headers, headers)
@example({"input": {"sha256": None}}, {"input": {}})
@settings(deadline=None)
def test_any_difference_is_said_and_nothing_else(before: dict[str, Any], now: dict[str, Any]) -> None:
    said = differences(before, now)
    assert all(said)
    assert said or without_nothing(before) == without_nothing(now)
    assert differences(before, before) == []
