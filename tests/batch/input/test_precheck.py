"""The pass over an input before any model is loaded: what it counts, what it refuses, and what it costs."""

import hashlib
import json
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openllama_cli.batch.input.precheck import InputSummary, SeenIds, find_duplicate, precheck
from openllama_cli.batch.input.readers import input_format
from openllama_cli.batch.input.rows import Row, RowSettings
from openllama_cli.errors import UsageError
from openllama_cli.prompt_templates import PromptTemplate, load_template, prompts_folder


def check(folder: Path, name: str, data: bytes | str, settings: RowSettings | None = None) -> InputSummary:
    path = folder / name
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return precheck(path, input_format(path), settings or RowSettings())


def refusal(folder: Path, name: str, data: bytes | str, settings: RowSettings | None = None) -> UsageError:
    with pytest.raises(UsageError) as refused:
        check(folder, name, data, settings)
    assert refused.value.exit_code == 2
    return refused.value


# -- what it counts ----------------------------------------------------------------------------------------------------


def test_rows_errors_and_the_longest_prompts_are_counted(tmp_path: Path) -> None:
    lines = [
        {"prompt": "short"},
        {"prompt": "größer"},
        {"prompt": 7},
        {"prompt": "x", "temperature": "hot"},
        {"prompt": "x", "temperature": -1},
        {"method": "POST", "url": "/v1/completions", "body": {"prompt": [1, 2, 3]}},
        {"method": "POST", "url": "/v1/completions", "body": {"prompt": [1], "suffix": "x"}},
    ]
    data = b"\xef\xbb\xbf" + "\n".join(map(json.dumps, lines)).encode() + b"\n\n{oops"
    summary = check(tmp_path, "input.jsonl", data)
    assert summary.rows == 8
    assert summary.errors == {"invalid_type": 1, "bad_option": 2, "unsupported_option": 1, "invalid_json": 1}
    assert summary.longest_prompt_bytes == len("größer".encode())
    assert summary.longest_prompt_tokens == 3
    assert summary.sha256 == hashlib.sha256(data).hexdigest()


def test_how_many_completions_a_row_wants_is_part_of_its_content(tmp_path: Path) -> None:
    lines = [
        {"prompt": "x"},
        {"prompt": "x", "n": 2, "temperature": 1},
        {"prompt": "x", "n": 2, "best_of": 3, "temperature": 1},
    ]
    lines += [{"prompt": "x", "temperature": 1}]
    hashes = [check(tmp_path, "in.jsonl", json.dumps(line)).rows_sha256 for line in lines]
    assert len(set(hashes)) == 4


def test_the_longest_prompt_is_that_of_the_template(tmp_path: Path) -> None:
    summary = check(tmp_path, "input.csv", "question\nWhy?\n", RowSettings(load_template("qa")))
    assert summary.longest_prompt_bytes == len(load_template("qa").render({"question": "Why?"}))


@pytest.mark.parametrize("example", sorted((prompts_folder() / "examples").iterdir()), ids=lambda path: path.name)
def test_the_example_prompts_have_no_wrong_row(example: Path) -> None:
    template = {".csv": "qa" if example.stem == "countries" else example.stem}.get(example.suffix)
    settings = RowSettings(load_template(template)) if template is not None else RowSettings()
    summary = precheck(example, input_format(example), settings)
    assert summary.rows > 1
    assert not summary.errors


# -- what it refuses ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.txt", ""),
        ("a.jsonl", ""),
        ("a.csv", ""),
        ("a.jsonl", "\n \n\r\n"),
        ("a.csv", "prompt\n"),
        ("a.csv", "\n\n"),
        ("a.tsv", b"\xef\xbb\xbf"),
        ("a.txt", b"\xef\xbb\xbf"),
    ],
)
def test_an_input_without_rows_is_refused(tmp_path: Path, name: str, data: bytes | str) -> None:
    assert "has no rows" in refusal(tmp_path, name, data).cause


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("missing.txt", "cannot read"),
        ("file.txt/below.txt", "cannot read"),
        ("nul\x00.txt", "cannot read"),
        ("long" * 100 + ".txt", "cannot read"),
        pytest.param("secret.txt", "Permission denied", marks=pytest.mark.skipif(os.geteuid() == 0, reason="root reads all")),
        (".", "is a folder"),
        ("pipe.txt", "not a regular file"),  # and nobody waits for it
    ],
)
def test_what_cannot_be_read_twice_is_refused(tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / "file.txt").write_text("x")
    (tmp_path / "secret.txt").touch(mode=0)
    os.mkfifo(tmp_path / "pipe.txt")
    with pytest.raises(UsageError, match=said) as refused:
        precheck(tmp_path / name, "txt", RowSettings())
    assert name != "pipe.txt" or "olc batch - --format" in refused.value.remedy


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ('{"prompt": "x"}\n'.encode("utf-16"), "UTF-16"),
        (b"\xfe\xff\x00{", "UTF-16"),
        (b"\x1f\x8b\x08\x00", "gzip"),
        (b"PK\x03\x04\x14\x00", "spreadsheet"),
        (b"\x28\xb5\x2f\xfd\x00", "zstd"),
    ],
)
@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.csv"])
def test_a_file_that_is_no_utf8_text_at_all_is_refused(tmp_path: Path, name: str, data: bytes, said: str) -> None:
    assert said in refusal(tmp_path, name, data).cause


def test_what_is_unpacked_has_the_name_of_a_plain_file(tmp_path: Path) -> None:
    packed = tmp_path / "a.jsonl.gz"
    packed.write_bytes(b"\x1f\x8b\x08\x00")
    with pytest.raises(UsageError) as refused:
        precheck(packed, "jsonl", RowSettings())
    assert refused.value.remedy.endswith("a.unpacked.jsonl")


@pytest.mark.parametrize(
    ("name", "data", "lines"),
    [
        (
            "a.jsonl",
            '{"custom_id": "a", "prompt": "x"}\n\n{"custom_id": "b", "prompt": "y"}\n{"custom_id": "a", "prompt": "z"}',
            (1, 4),
        ),
        ("a.csv", 'custom_id,prompt\n"a","x\ny"\na,z\n', (2, 4)),
        ("a.tsv", "prompt\tcustom_id\nx\t\ny\trow-0\n", (2, 3)),
        ("a.jsonl", '{"custom_id": 7, "prompt": "x"}\n{"custom_id": "7", "prompt": 5}', (1, 2)),
    ],
)
def test_an_id_given_twice_is_refused_with_both_lines(tmp_path: Path, name: str, data: str, lines: tuple[int, int]) -> None:
    error = refusal(tmp_path, name, data)
    assert error.code == "duplicate_custom_id"
    assert f"on lines {lines[0]} and {lines[1]} " in error.cause


@pytest.mark.parametrize(
    ("data", "template", "said", "remedy"),
    [
        ('{"text": "x"}\n{"text": "y"}', None, "none of the 2 rows", "-t NAME"),
        ('{"prompt": "x"}\n{"prompt": "y"}', "qa", "question", "another template"),
        ('{"method": "POST", "url": "/v1/chat/completions", "body": {"messages": []}}', None, "chat", "/v1/completions"),
        ("custom_id,prompt\na,b\n", None, "not JSON Lines", "--format"),
        ('[\n{"prompt": "a"},\n{"prompt": "b"}\n]', None, "one JSON document", "on its own line"),
        ('{\n  "prompt": "a"\n}\n', None, "one JSON document", "on its own line"),
        ('[{"prompt": "a"}, {"prompt": "b"}]\n', None, "one JSON array", "on its own line"),
        ('["a", "b"]\n', None, "not JSON Lines", "--format"),
        ('"a"\n"b"\n', None, "not JSON Lines", "--format"),
    ],
)
def test_an_input_that_is_wrong_as_a_whole_is_refused(
    tmp_path: Path, data: str, template: str | None, said: str, remedy: str
) -> None:
    error = refusal(tmp_path, "a.jsonl", data, RowSettings(load_template(template) if template else None))
    assert said in error.cause
    assert remedy in error.remedy


@pytest.mark.parametrize(
    "data", ['{"prompt": "x"', '{"prompt": 7}', '{"prompt": "x", "top_p": 5}\n{"prompt": "x", "top_p": 6}']
)
def test_rows_that_are_wrong_by_themselves_are_counted_not_refused(tmp_path: Path, data: str) -> None:
    summary = check(tmp_path, "a.jsonl", data)
    assert summary.errors.total() == summary.rows


def test_one_good_row_is_enough(tmp_path: Path) -> None:
    assert check(tmp_path, "a.jsonl", 'x\n{"text": 1}\n{"prompt": "x"}').errors == {"invalid_json": 1, "missing_prompt": 1}
    assert check(tmp_path, "a.jsonl", '{\n{"prompt": "x"}\n').rows == 2


def test_a_missing_column_and_a_template_that_does_not_fit_are_refused(tmp_path: Path) -> None:
    assert "'question'" in refusal(tmp_path, "a.csv", "prompt\nx\n", RowSettings(load_template("qa"))).cause
    two = PromptTemplate("two", "{{ a }}{{ b }}", variables=("a", "b"))
    assert "a, b" in refusal(tmp_path, "a.txt", "x\n", RowSettings(two)).cause


# -- ids ---------------------------------------------------------------------------------------------------------------


@given(ids=st.lists(st.text(max_size=2), max_size=30))
def test_repeated_ids_are_found_and_no_others(ids: list[str]) -> None:
    seen = SeenIds()
    for custom_id in ids:
        seen.add(custom_id)
    repeated = seen.repeated()
    assert {custom_id for custom_id in ids if ids.count(custom_id) > 1} == {i for i in ids if hash(i) in repeated}
    found = find_duplicate((Row(index, custom_id) for index, custom_id in enumerate(ids)), repeated)
    if found is None:
        assert len(set(ids)) == len(ids)
    else:
        first, second = found
        assert first.custom_id == second.custom_id
        assert first.index == ids.index(first.custom_id) < second.index


def test_ids_that_share_a_hash_are_told_apart() -> None:
    rows = [Row(0, "a"), Row(1, "b")]
    assert find_duplicate(rows, {hash("a"), hash("b")}) is None


# -- what it costs -----------------------------------------------------------------------------------------------------


def test_a_large_input_takes_a_few_bytes_of_memory_a_row(tmp_path: Path) -> None:
    rows = 3_000
    path = tmp_path / "large.jsonl"
    with path.open("w") as file:
        for number in range(rows):
            file.write(f'{{"custom_id": "id-{number}", "prompt": "{"x" * 400} {number}", "max_tokens": 5}}\n')
    precheck(prompts_folder() / "examples" / "en.txt", "txt", RowSettings())  # what is imported late
    tracemalloc.start()
    summary = precheck(path, "jsonl", RowSettings())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert summary.rows == rows
    assert peak < 2**20 + 16 * rows


def test_checking_an_input_imports_neither_torch_nor_numpy(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("question\nWhy?\n")
    code = (
        "import sys; from pathlib import Path\n"
        "from openllama_cli.batch.input.precheck import precheck\n"
        "from openllama_cli.batch.input.rows import RowSettings\n"
        "from openllama_cli.prompt_templates import load_template\n"
        "print(precheck(Path(sys.argv[1]), 'csv', RowSettings(load_template('qa'))).rows)\n"
        "assert not {'torch', 'numpy', 'transformers', 'rich', 'click'} & set(sys.modules)\n"
    )
    run = subprocess.run([sys.executable, "-c", code, tmp_path / "a.csv"], capture_output=True, text=True, timeout=60)
    assert (run.stdout, run.stderr) == ("1\n", "")
