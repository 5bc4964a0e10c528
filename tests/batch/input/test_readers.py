"""What all formats have in common: any text comes back as it was, a wrong row costs itself only, skipping changes nothing."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from openllama_cli.batch.input.readers import input_format, read_rows
from openllama_cli.batch.input.rows import Row, RowSettings
from openllama_cli.errors import UsageError
from openllama_cli.generation.decode.config import SamplingConfig
from openllama_cli.prompt_templates import PromptTemplate, load_template

Read = Callable[..., list[Row]]
FORMATS = ("txt", "jsonl", "csv", "tsv")
TEXTS = st.text(st.characters(codec="utf-8"), max_size=30)
# Bytes that mean something to one of the formats come up more often than the rest.
HOSTILE = st.lists(
    st.sampled_from(
        [b'"', b",", b"\t", b"\r", b"\x00", b"\xff", b"\xc3", b"{", b"}", b'{"prompt":"x"}', b"[" * 2000, b" ", b"\\"]
    )
    | st.binary(max_size=4),
    max_size=12,
).map(b"".join)


@pytest.fixture(scope="module")
def read(tmp_path_factory: pytest.TempPathFactory) -> Read:
    """`read("csv", data)`: the rows of a file with these bytes. Of the module, since Hypothesis calls a test many times."""
    folder = tmp_path_factory.mktemp("read")

    def read_data(name: str, data: bytes | str, settings: RowSettings | None = None, **options: object) -> list[Row]:
        path = folder / f"input.{name}"
        path.write_bytes(data.encode() if isinstance(data, str) else data)
        return list(read_rows(path, input_format(path), settings or RowSettings(), **options))  # type: ignore[arg-type]

    return read_data


def written(name: str, prompts: list[str]) -> bytes:
    """A file of these prompts, written by the standard library. Lines of .txt must not hold line breaks."""
    if name == "txt":
        return "".join(f"{prompt}\n" for prompt in prompts).encode()
    if name == "jsonl":
        return "".join(
            json.dumps({"prompt": prompt}, ensure_ascii=bool(i % 2)) + "\n" for i, prompt in enumerate(prompts)
        ).encode()
    table = io.StringIO()
    writer = csv.writer(table, delimiter="," if name == "csv" else "\t")
    writer.writerow(["custom_id", "prompt"])
    writer.writerows([f"id {i}", prompt] for i, prompt in enumerate(prompts))
    return table.getvalue().encode()


# -- which format ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [("a.txt", "txt"), ("a.text", "txt"), ("a.JSONL", "jsonl"), ("a.ndjson", "jsonl"), ("b.csv", "csv"), ("a.b.Tsv", "tsv")],
)
def test_the_suffix_tells_the_format(name: str, expected: str) -> None:
    assert input_format(Path(name)) == expected


@pytest.mark.parametrize(
    ("name", "fmt"),
    [("prompts", None), ("prompts.json", None), ("prompts.xlsx", None), ("-", None), (".csv", None), ("a.txt", "xml")],
)
def test_an_unknown_suffix_or_format_is_refused_with_what_helps(name: str, fmt: str | None) -> None:
    with pytest.raises(UsageError) as refused:
        input_format(Path(name), fmt)
    assert ("use one of txt" if fmt else "--format") in refused.value.remedy


# -- all formats -------------------------------------------------------------------------------------------------------


@settings(max_examples=200)
@given(name=st.sampled_from(FORMATS), prompts=st.lists(TEXTS, max_size=8), bom=st.booleans(), last_break=st.booleans())
def test_any_text_comes_back_as_it_was_written(read: Read, name: str, prompts: list[str], bom: bool, last_break: bool) -> None:
    if name == "txt":
        prompts = [prompt.replace("\n", " ").rstrip("\r") for prompt in prompts]
    data = written(name, prompts)
    if not last_break and (name != "txt" or (prompts and prompts[-1])):
        data = data.removesuffix(b"\n").removesuffix(b"\r")
    # A file that begins with U+FEFF has a byte order mark, whatever was meant.
    if name == "txt" and prompts and prompts[0].startswith("\ufeff") and not bom:
        data = "\ufeff".encode() + data
    rows = read(name, "\ufeff".encode() + data if bom else data)
    assert [row.prompt for row in rows] == prompts
    assert [row.index for row in rows] == list(range(len(prompts)))
    assert all(row.error is None and row.sampling == SamplingConfig() and not row.openai for row in rows)


@pytest.mark.parametrize("name", FORMATS)
def test_crlf_files_read_like_lf_files(read: Read, name: str) -> None:
    data = written(name, ["one", "zwei 🦙", "três"]).replace(b"\r\n", b"\n")
    assert read(name, data) == read(name, data.replace(b"\n", b"\r\n"))
    assert [row.prompt for row in read(name, data)] == ["one", "zwei 🦙", "três"]


@settings(max_examples=200)
@given(name=st.sampled_from(FORMATS), data=st.lists(HOSTILE, max_size=6).map(b"\n".join), skipped=st.sets(st.integers(0, 5)))
@example(name="csv", data=b'custom_id,prompt\n"a', skipped=set())
def test_no_bytes_raise_and_skipping_rows_changes_no_other(read: Read, name: str, data: bytes, skipped: set[int]) -> None:
    if name in ("csv", "tsv"):
        data = (b"custom_id,prompt\n" if name == "csv" else b"custom_id\tprompt\n") + data
    settings = RowSettings(max_line_bytes=1000)
    rows = read(name, data, settings)
    assert [row.index for row in rows] == list(range(len(rows)))
    for row in rows:
        assert (row.error is None) == (row.prompt is not None) == (row.sampling is not None)
        assert row.error is None or row.error.message.encode().count(b"\n") == 0
    if name in ("txt", "jsonl"):
        lines = data.removeprefix(b"\xef\xbb\xbf").split(b"\n")
        if lines[-1] == b"":
            lines.pop()
        assert len(rows) == (len(lines) if name == "txt" else sum(1 for line in lines if line.strip()))
    assert read(name, data, settings, skip=lambda index: index in skipped) == [r for r in rows if r.index not in skipped]


@settings(max_examples=200)
@given(name=st.sampled_from(FORMATS), hostile=HOSTILE, place=st.integers(0, 3))
def test_a_wrong_line_costs_no_neighbor(read: Read, name: str, hostile: bytes, place: int) -> None:
    lines = written(name, ["one", "two", "three"]).replace(b"\r\n", b"\n").splitlines(keepends=True)
    header = len(lines) - 3
    lines.insert(place + header, hostile.replace(b"\n", b"") + b"\n")
    rows = read(name, b"".join(lines))
    texts = [row.prompt for row in rows]
    # The line itself gives a row, wrong or not, or none where it is blank.
    assert texts[:place] == ["one", "two", "three"][:place]
    assert texts[len(texts) - (3 - place) :] == ["one", "two", "three"][place:]
    assert len(texts) in (3, 4)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(
    ("line", "code", "said"), [(b"x" * 500, "line_too_long", "is longer than"), (b"zw\xe9i", "invalid_utf8", "0xe9")]
)
def test_a_line_too_long_or_no_utf8_is_an_error_row(read: Read, name: str, line: bytes, code: str, said: str) -> None:
    data = written(name, ["one", "zwei", "fünf"]).replace(b"zwei", line)
    rows = read(name, data, RowSettings(max_line_bytes=100))
    assert [row.prompt for row in rows] == ["one", None, "fünf"]
    error = rows[1].error
    assert error is not None
    assert error.code == code
    assert said in error.message


def test_reading_takes_no_more_than_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "endless.jsonl"
    with path.open("wb") as file:
        file.write(b'{"prompt": "first"}\n')
        file.truncate(2**40)  # a terabyte, on no disk
    rows = read_rows(path, input_format(path), RowSettings())
    assert next(rows).prompt == "first"
    rows.close()  # type: ignore[attr-defined]


# -- plain text --------------------------------------------------------------------------------------------------------


def test_an_empty_line_of_text_is_an_empty_prompt(read: Read) -> None:
    rows = read("txt", "one\n\n \nfour\n")
    assert [(row.prompt, row.custom_id, row.line) for row in rows] == [
        ("one", "row-0", 1),
        ("", "row-1", 2),
        (" ", "row-2", 3),
        ("four", "row-3", 4),
    ]


def test_a_line_of_text_fills_the_one_variable_of_a_template(read: Read) -> None:
    [row] = read("txt", "Why is the sky blue?\n", RowSettings(load_template("qa")))
    assert row.prompt == load_template("qa").render({"question": "Why is the sky blue?"})
    only_a_default = PromptTemplate("t", "Hello {{ name }}", defaults={"name": "world"}, variables=("name",))
    assert [row.prompt for row in read("txt", "you\n", RowSettings(only_a_default))] == ["Hello you"]


@pytest.mark.parametrize("variables", [(), ("a", "b")])
def test_a_template_that_a_line_of_text_cannot_fill_is_refused(read: Read, variables: tuple[str, ...]) -> None:
    template = PromptTemplate("t", "".join(f"{{{{ {name} }}}}" for name in variables), variables=variables)
    with pytest.raises(UsageError, match="a line of text is one"):
        read("txt", "x\n", RowSettings(template))


def test_the_defaults_are_checked_before_any_file_is_opened() -> None:
    with pytest.raises(UsageError, match="--top-p"):
        RowSettings(defaults={"top_p": 2})
