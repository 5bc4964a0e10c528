"""Files of worked examples: CSV, TSV or JSON lines with a template's variables and `answer`."""

import csv
import hashlib
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from openllama_cli.errors import UsageError
from openllama_cli.prompt_templates import PromptTemplate
from openllama_cli.system import convert

ANSWER = "answer"
_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_JSON_LINES = (".jsonl", ".ndjson")
# Examples are for prompts; what is larger is some other file.
_MOST_BYTES = 64 * 2**20
_NAMES_SHOWN = 8


@dataclass(frozen=True)
class Example:
    """line: on which it begins, from 1. values: of the template's variables, as far as the file gives them."""

    line: int
    values: Mapping[str, Any]
    answer: str


@dataclass(frozen=True)
class Examples:
    """The examples of a file. path: as it was named. given: the variables of the template that the file has."""

    path: Path
    examples: tuple[Example, ...]
    given: frozenset[str]

    @property
    def answers(self) -> list[str]:
        """The different answers, in the order of the file."""
        return list(dict.fromkeys(example.answer for example in self.examples))

    @cached_property
    def sha256(self) -> str:
        """Of all that prompts depend on."""
        content = [[dict(example.values), example.answer] for example in self.examples]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def read_examples(path: Path, template: PromptTemplate) -> Examples:
    """The examples for a template: of its variables those that are not its heading's alone, which is the row's.

    Whitespace around an answer is dropped: what stands between a prompt and its answer is the template's to say. Where that
    itself ends in whitespace it is dropped at the answer's end only, since it may be the indentation of code.

    Raises UsageError for a file that cannot be read, is not UTF-8, has no examples, lacks a variable or `answer`, or has an
    example without one.
    """
    wanted = [name for name in template.variables if name not in template.heading_only]
    if ANSWER in wanted:
        cause = f"the template {template.name} has a variable {ANSWER}, which in {path} is the answer of an example"
        raise UsageError(cause, "rename the variable of the template")
    text = _text(path)
    suffix = path.suffix.lower()
    needed = [*(name for name in wanted if name not in template.defaults), ANSWER]
    read = _read_json_lines(path, text) if suffix in _JSON_LINES else _read_table(path, text, _DELIMITERS[suffix], needed)
    given: set[str] = set()
    examples = []
    for line, fields in read:
        values = {name: fields[name] for name in wanted if fields.get(name) is not None}
        for name in needed:
            if fields.get(name) is None:
                raise _lacks(f"line {line} of {path} has no {name!r}", fields)
        given |= set(values)
        examples.append(Example(line, values, _answer(path, line, fields, indented=template.template[-1:].isspace())))
    if not examples:
        raise UsageError(f"{path} has no examples", f"give at least one, with {', '.join([*wanted, ANSWER])}", code="no_rows")
    return Examples(path, tuple(examples), frozenset(given))


def _answer(path: Path, line: int, fields: Mapping[str, Any], *, indented: bool) -> str:
    found = fields[ANSWER]
    if isinstance(found, bool) or not isinstance(found, str | int | float):
        raise UsageError(f"line {line} of {path}: {ANSWER} is not a text", f'write it as one: "{ANSWER}": "…"')
    answer = str(found).rstrip() if indented else str(found).strip()
    if not answer:
        raise UsageError(
            f"line {line} of {path} has an empty {ANSWER}", "give its answer, or remove the line", code="no_answer"
        )
    return answer


def _lacks(cause: str, fields: Mapping[str, Any]) -> UsageError:
    names = ", ".join(map(repr, list(fields)[:_NAMES_SHOWN])) + (", …" if len(fields) > _NAMES_SHOWN else "")
    return UsageError(cause, f"add it, or rename the field that has it; there are {names or 'no fields'}", code="no_column")


def _text(path: Path) -> str:
    suffix = path.suffix.lower()
    if suffix not in (*_DELIMITERS, *_JSON_LINES):
        raise UsageError(f"the examples {path} are not .csv, .tsv or .jsonl", "name a file of one of these formats")
    try:
        if not path.is_file():
            what = "is not a regular file" if path.exists() else "does not exist"
            raise UsageError(f"the file of examples {path} {what}", f"name a .csv or .jsonl file with a field {ANSWER}")
        if path.stat().st_size > _MOST_BYTES:
            raise UsageError(f"{path} is larger than {_MOST_BYTES >> 20} MiB", "give fewer examples")
        data = path.read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"cannot read the examples {path}: {reason}", "check the path and its permissions") from error
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        encoding = convert.wide_encoding(data) or convert.narrow_encoding(data)
        cause = f"{path} is not UTF-8: byte 0x{data[error.start]:02x} at offset {error.start}"
        raise UsageError(cause, f"convert it: {convert.to_utf8(path, encoding)}", code="not_text") from error


def _read_json_lines(path: Path, text: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            fields = json.loads(line)
        except (ValueError, RecursionError) as error:
            reason = f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else "it cannot be read"
            raise UsageError(f"line {number} of {path} is not JSON: {reason}", "write one object per line") from error
        if not isinstance(fields, dict):
            remedy = f'write one object per line, such as {{"text": "…", "{ANSWER}": "…"}}'
            raise UsageError(f"line {number} of {path} is not a JSON object", remedy)
        yield number, fields


def _read_table(path: Path, text: str, delimiter: str, needed: Sequence[str]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    header: Sequence[str] | None = None
    for number, cells in _records(path, text, _delimiter(text, delimiter)):
        if header is None:
            header = [name.strip() for name in cells]
            if len(set(header)) < len(header):
                raise UsageError(f"two columns of {path} have the same name", "rename one of them")
            for name in needed:
                if name not in header:
                    raise _lacks(f"{path} has no column {name!r}", dict.fromkeys(header))
            continue
        if len(cells) != len(header):
            cause = f"line {number} of {path} has {len(cells)} cell{'s' * (len(cells) != 1)}, the header has {len(header)}"
            raise UsageError(cause, "put a cell that has the delimiter in it into double quotes", code="invalid_csv")
        yield number, dict(zip(header, cells, strict=True))


def _records(path: Path, text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """The records with the lines on which they begin; blank ones are skipped."""
    csv.field_size_limit(max(csv.field_size_limit(), len(text)))
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    begins = 1
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            cause = f"{path} is not valid CSV from line {begins} on: {error}"
            raise UsageError(cause, "double the quotes inside a quoted cell, and close each", code="invalid_csv") from error
        if cells:
            yield begins, cells
        begins = reader.line_num + 1


def _delimiter(text: str, suffixed: str) -> str:
    """A semicolon where the header has those and no commas, as Excel writes CSV in much of Europe."""
    header = next((line for line in text.splitlines() if line.strip()), "")
    return ";" if suffixed == "," and "," not in header and ";" in header else suffixed
