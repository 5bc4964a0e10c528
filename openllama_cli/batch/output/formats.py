"""OUTPUT in the format that its suffix names: JSON lines, a table, or one text per line."""

import csv
import io
import json
import shlex
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from openllama_cli.errors import UsageError

DELIMITERS = {".csv": ",", ".tsv": "\t"}
TEXTS = (".txt", ".text")
# Formats that olc does not write; a name with any other suffix, or none, gets JSON lines.
_OTHERS = {
    ".json",
    ".xlsx",
    ".xls",
    ".ods",
    ".parquet",
    ".arrow",
    ".feather",
    ".db",
    ".sqlite",
    ".html",
    ".md",
    ".yaml",
    ".yml",
}
_OTHERS |= {".gz", ".zst", ".bz2", ".xz", ".zip", ".tar", ".pkl", ".pickle", ".npz", ".npy", ".xml", ".pdf"}

_USAGE = ("prompt_tokens", "completion_tokens", "total_tokens")
_ERROR = ("code", "message")
_COLUMNS = ("custom_id", "index", "prompt", "text", "finish_reason", *_USAGE, *(f"error_{name}" for name in _ERROR))


def check_suffix(path: Path) -> None:
    """Raise UsageError for an OUTPUT whose name promises a format that olc does not write."""
    if path.suffix.lower() in _OTHERS:
        lines = shlex.quote(str(path.with_suffix(".out.jsonl")))
        raise UsageError(
            f"OUTPUT {path} cannot be written as {path.suffix}",
            f"give -o {lines} (JSON lines), or a name in .csv, .tsv or .txt (one text per line)",
            code="output_format",
        )


def keeps_all(path: Path) -> bool:
    """Whether OUTPUT under this name is JSON lines, which have all of every row."""
    return path.suffix.lower() not in {*DELIMITERS, *TEXTS}


def encode(path: Path, lines: Callable[[], Iterable[bytes]]) -> Iterator[bytes]:
    """The content of OUTPUT, a part per row. lines: the rows' JSON, in order; read twice for a table."""
    suffix = path.suffix.lower()
    if suffix in TEXTS:
        return (_text(json.loads(line)) for line in lines())
    if suffix in DELIMITERS:
        return _table(DELIMITERS[suffix], lines)
    return (line + b"\n" for line in lines())


def _text(document: dict[str, Any]) -> bytes:
    """The text of a row as one line, as `-e` reads it: a backslash is doubled, a line break is \\n. Empty for a failed row."""
    text = _flat(document)["text"] or ""
    for character, written in (("\\", "\\\\"), ("\n", "\\n"), ("\r", "\\r")):
        text = text.replace(character, written)
    return _utf8(text + "\n")


def _table(delimiter: str, lines: Callable[[], Iterable[bytes]]) -> Iterator[bytes]:
    columns = dict.fromkeys(_COLUMNS)
    for line in lines():
        columns |= dict.fromkeys(_flat(json.loads(line)))
    yield _record(columns, delimiter)
    for line in lines():
        row = _flat(json.loads(line))
        yield _record((_cell(row.get(name)) for name in columns), delimiter)


def _record(cells: Iterable[str], delimiter: str) -> bytes:
    written = io.StringIO()
    # Up to Python 3.12 only characters of the line's end are quoted, and a "\r" in a field has to be.
    csv.writer(written, delimiter=delimiter, lineterminator="\r\n").writerow(cells)
    return _utf8(written.getvalue().removesuffix("\r\n") + "\n")


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _flat(document: dict[str, Any]) -> dict[str, Any]:
    """A row without objects in it, but for what it carries and its log-probabilities; OpenAI's shape as olc's own."""
    if "response" in document:
        document = _unpacked(document)
    usage, error = document.get("usage") or {}, document.get("error") or {}
    flat = {name: document.get(name) for name in _COLUMNS[:5]}
    flat |= {name: usage.get(name) for name in _USAGE} | {f"error_{name}": error.get(name) for name in _ERROR}
    rest = {name: value for name, value in document.items() if name not in {*_COLUMNS[:5], "usage", "error"}}
    if isinstance(score := rest.get("score"), dict):
        flat |= {f"score_{name}": value for name, value in score.items()}
        del rest["score"]
    return flat | {f"input_{name}" if name in flat else name: value for name, value in rest.items()}


def _unpacked(document: dict[str, Any]) -> dict[str, Any]:
    body = document["response"]["body"]
    choice = (body.get("choices") or [{}])[0]
    index = int(document["id"].rpartition("_")[2])
    flat = {"custom_id": document["custom_id"], "index": index, "usage": body.get("usage"), "error": document["error"]}
    rest = {name: document[name] for name in ("annotations",) if name in document}
    rest |= {name: value for name, value in (body.get("olc") or {}).items() if name == "choices"}
    return flat | {name: choice[name] for name in ("text", "finish_reason", "logprobs") if choice.get(name) is not None} | rest


def _utf8(text: str) -> bytes:
    return text.encode(errors="backslashreplace")
