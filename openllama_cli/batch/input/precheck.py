"""Reads an input once before any model is loaded: how much work it is, and whether it can be done."""

import hashlib
from array import array
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from openllama_cli.batch.input.carry import PREFIX
from openllama_cli.batch.input.lines import check_input, open_input
from openllama_cli.batch.input.readers import FormatName, read_rows
from openllama_cli.batch.input.rows import Row, RowSettings
from openllama_cli.errors import UsageError
from openllama_cli.system import convert

# Hashes are kept in this many parts, so that looking through one at a time needs little memory.
_PARTS = 256


class SeenIds:
    """64-bit hashes of the ids that were added. Two ids may share one, if rarely: `find_duplicate` has the last word."""

    def __init__(self) -> None:
        self._parts = [array("q") for _ in range(_PARTS)]

    def add(self, custom_id: str) -> None:
        """Remember an id."""
        number = hash(custom_id)
        self._parts[number % _PARTS].append(number)

    def repeated(self) -> set[int]:
        """The hashes that were added more than once."""
        return {number for part in self._parts for number, count in Counter(part).items() if count > 1}


def find_duplicate(rows: Iterable[Row], repeated: set[int]) -> tuple[Row, Row] | None:
    """The first two rows with the same id. repeated: the hashes of ids that may be the same."""
    first: dict[str, Row] = {}
    for row in rows:
        if hash(row.custom_id) in repeated:
            earlier = first.setdefault(row.custom_id, row)
            if earlier is not row:
                return earlier, row
    return None


# How files begin that are not text, what they are, and what to do.
_NOT_TEXT = [
    (b"\x1f\x8b", "is compressed with gzip", "unpack it: gunzip -c {} > {}"),
    (b"\x28\xb5\x2f\xfd", "is compressed with zstd", "unpack it: zstd -dc {} > {}"),
    (b"PK\x03\x04", "is a zip archive or a spreadsheet", "unpack it, or save the table as CSV (UTF-8)"),
]
# Errors that, if every row has them, show that the input or the template is not what was meant.
_REMEDIES = {
    "missing_prompt": "name the field prompt, or use a template that has the fields as variables: -t NAME",
    "template_error": "add the missing fields, or use another template",
    "openai_line": 'give rows with a prompt, such as {"prompt": "…"}, or leave out --score',
    "missing_context": "name the field that has the context: --context-column NAME",
    "unsupported_endpoint": "use requests to /v1/completions, with a prompt",
}
_HEAD = 4096
# So many rows that are not UTF-8, and none that is beyond ASCII: the file has another encoding.
_NOT_BY_CHANCE = 10


@dataclass(frozen=True)
class InputSummary:
    """What is in an input.

    rows: all of them, wrong ones too. sha256: of the file's bytes. longest_prompt_bytes: of prompts that are text (UTF-8,
    template applied); longest_prompt_tokens: of those that are token ids. errors: code → rows that are wrong in that way.
    carries: whether a row has fields that go through to OUTPUT. rows_sha256: of all that is in the rows, whatever the file's
    bytes; beginning: of the first rows, as many as `precheck` was asked for. encoding: what the file most likely is, where
    rows are not UTF-8 and no other one has letters beyond ASCII. empty: prompts that are empty.
    """

    rows: int
    sha256: str
    longest_prompt_bytes: int
    longest_prompt_tokens: int
    errors: Counter[str]
    carries: bool = False
    rows_sha256: str = ""
    beginning: str | None = None
    encoding: str | None = None
    empty: int = 0

    @property
    def longest_prompt(self) -> int:
        """Tokens of the longest prompt, BOS included, at the most: a token is at least a byte."""
        return max(self.longest_prompt_bytes + 1, self.longest_prompt_tokens)


def precheck(path: Path, fmt: FormatName, settings: RowSettings, *, beginning: int | None = None) -> InputSummary:
    """Read all rows, and keep none: nine bytes a row are kept, to find a custom_id given twice.

    beginning: of how many rows the hash is wanted beside that of all.

    Raises UsageError for a file that cannot be opened, is not a regular file or not text; has no rows; whose header lacks a
    column; that gives a custom_id twice; or of whose rows none has a prompt.
    """
    head = _head(path)
    digest, contents, begun = hashlib.sha256(), hashlib.sha256(), None
    rows = longest_bytes = longest_tokens = empty = 0
    errors: Counter[str] = Counter()
    first_error: Row | None = None
    ids = SeenIds()
    carried: set[str] = set()  # of those that --carry names
    carries = valid = chooses = False
    for row in read_rows(path, fmt, settings, on_bytes=digest.update):
        rows += 1
        ids.add(row.custom_id)
        contents.update(_content(row, settings))
        if rows == beginning:
            begun = contents.hexdigest()
        if row.carried:
            carries = True
            carried.update(settings.carry.names & {*row.carried, *(name.removeprefix(PREFIX) for name in row.carried)})
        chooses = chooses or row.choices is not None
        if row.error is not None:
            errors[row.error.code] += 1
            first_error = first_error or row
        elif row.prompt is not None:
            empty += not row.prompt
            ascii_only = row.prompt.isascii()
            valid = valid or not ascii_only
            size = len(row.prompt) if ascii_only else len(row.prompt.encode())
            longest_bytes = max(longest_bytes, size)
        elif row.tokens is not None:
            longest_tokens = max(longest_tokens, len(row.tokens))
    if rows == 0:
        raise UsageError(f"{path} has no rows", "give at least one prompt", code="no_rows")
    encoding = convert.narrow_encoding(_bytes(path)) if errors["invalid_utf8"] and not valid else None
    _refuse_what_cannot_be_meant(path, fmt, rows, errors, first_error, head, encoding)
    _refuse_duplicates(path, fmt, settings, ids)
    absent = settings.carry.names - carried - {"prompt", "custom_id"}
    if absent and not errors:
        cause = f"no row of {path} has a field {min(absent)!r} to carry"
        raise UsageError(cause, "name fields that it has in --carry", code="no_column")
    if settings.choosing.option is not None and not chooses and not errors:
        cause = f"{settings.choosing.option} requires choices, and no row of {path} has any"
        raise UsageError(cause, "name them, such as --choices yes,no, or give rows a field choices")
    digests = contents.hexdigest(), begun
    return InputSummary(rows, digest.hexdigest(), longest_bytes, longest_tokens, errors, carries, *digests, encoding, empty)


def _head(path: Path) -> bytes:
    """How the file begins, past its byte order mark."""
    check_input(path)
    if not path.is_file():
        raise UsageError(
            f"{path} is not a regular file, and it has to be read twice", "pipe it in: olc batch - --format FORMAT"
        )
    with open_input(path) as file:
        head = file.read(_HEAD)
    for begin, what, remedy in _NOT_TEXT:
        if head.startswith(begin):
            plain = path.with_suffix("") if path.suffix.lower() in (".gz", ".zst") else path
            raise UsageError(f"{path} {what}", remedy.format(*convert.files(plain, "unpacked", path)), code="not_text")
    if (encoding := convert.wide_encoding(head)) is not None:
        raise UsageError(
            f"{path} is {encoding[:6]}, not UTF-8", f"convert it: {convert.to_utf8(path, encoding)}", code="not_text"
        )
    if b"\r" in head.rstrip(b"\r\n") and b"\n" not in head and _without_newline(path):
        raise UsageError(
            f"the lines of {path} end with CR alone, and are one line here",
            f"convert it: {convert.to_newlines(path)}",
            code="line_ends",
        )
    return head


def _without_newline(path: Path) -> bool:
    with open_input(path) as file:
        return not any(b"\n" in chunk for chunk in iter(lambda: file.read(1 << 20), b""))


def _refuse_what_cannot_be_meant(
    path: Path, fmt: FormatName, rows: int, errors: Counter[str], first: Row | None, head: bytes, encoding: str | None
) -> None:
    """A row that is wrong is an error row; where all are wrong in the same way, the file or the command is.

    encoding: what the file most likely is, if it is not UTF-8.
    """
    if first is None or first.error is None:
        return
    code, message = first.error.code, first.error.message
    if code in _REMEDIES and errors[code] == rows:
        raise UsageError(f"none of the {rows} rows can be run; the first: {message}", _REMEDIES[code], code=code)
    if code == "invalid_utf8" and encoding is not None and (errors[code] == rows or errors[code] >= _NOT_BY_CHANCE):
        remedy = f"convert it; if it is Western European: {convert.to_utf8(path, encoding)}"
        raise UsageError(
            f"{path} is not UTF-8, in {errors[code]} of {rows} rows; the first: {message}", remedy, code="not_text"
        )
    if fmt == "jsonl":
        begin = head.lstrip()
        no_objects = errors["invalid_json"] + errors["invalid_type"]
        if begin.split(b"\n")[0].strip() in (b"[", b"{") and no_objects > rows / 2:
            remedy = f"put each object on its own line: {convert.to_lines(path)}"
            raise UsageError(f"{path} is one JSON document over many lines, not JSON Lines", remedy, code="invalid_json")
        if rows == 1 and begin.startswith(b"[") and begin[1:].lstrip().startswith(b"{") and errors["invalid_type"]:
            remedy = f"put each object on its own line: {convert.to_lines(path)}"
            raise UsageError(f"{path} is one JSON array, not JSON Lines", remedy, code="invalid_json")
        if no_objects == rows and not begin.startswith(b"{"):
            remedy = "write one object per line, or name the format: --format txt, csv or tsv"
            raise UsageError(f"{path} is not JSON Lines: {message}", remedy, code="invalid_json")


def _content(row: Row, settings: RowSettings) -> bytes:
    """All of a row that its result depends on, but for what holds for every row."""
    sampling = None if row.sampling is settings.sampling else row.sampling
    choices = None if row.choices is settings.choosing.choices else row.choices
    # What most rows do not have is left out, so that journals of earlier versions still belong to their rows.
    samples = None if (row.samples, row.best_of) == (settings.samples, settings.samples) else (row.samples, row.best_of)
    task = filter(None, [row.body, choices, row.scoring, samples])
    options = (sampling, row.own_seed, row.fixed_length, row.echo, row.openai, row.error, *task)
    return repr((row.custom_id, row.prompt, row.tokens, options, row.carried)).encode(errors="surrogatepass")


def _bytes(path: Path) -> bytes:
    """Some of a file's bytes, to guess its encoding."""
    with open_input(path) as file:
        return file.read(1 << 20)


def _refuse_duplicates(path: Path, fmt: FormatName, settings: RowSettings, ids: SeenIds) -> None:
    repeated = ids.repeated()
    if not repeated:
        return
    found = find_duplicate(read_rows(path, fmt, settings), repeated)
    if found is not None:
        first, second = found
        raise UsageError(
            f"custom_id {first.custom_id!r} is used on lines {first.line} and {second.line} of {path}",
            "make each unique; rows without one are named row-0, row-1, …, or keep a field `id` as data: --carry all,id",
            code="duplicate_custom_id",
        )
