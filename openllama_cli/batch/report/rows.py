"""The rows of a finished OUTPUT, as far as a report needs them."""

import csv
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openllama_cli.batch.journal.journal import Journal
from openllama_cli.batch.output.formats import DELIMITERS, TEXTS
from openllama_cli.batch.output.output import OutputFiles
from openllama_cli.errors import OlcError, UsageError

ANSWER = "answer"
_NAME_IT = "name the -o of a batch that is finished: JSON lines, .csv or .tsv"


@dataclass(frozen=True, slots=True)
class Outcome:
    """A row. answer: the expected one, None without one. text: None for a row that failed. probabilities: of each choice, if
    the row was to choose."""

    answer: str | None
    text: str | None
    probabilities: Mapping[str, float] | None = None


def read_outcomes(output: Path) -> Iterator[Outcome]:
    """The rows of an OUTPUT, in its order, one at a time.

    Raises UsageError for one that is not there, not finished, not written by `olc batch`, or of texts alone; OlcError where it
    cannot be read.
    """
    _check_finished(output)
    suffix = output.suffix.lower()
    if suffix in TEXTS:
        raise UsageError(f"{output} has only the texts of its rows, no answers", "write the batch to -o answers.jsonl, or .csv")
    try:
        if suffix in DELIMITERS:
            yield from _read_table(output, DELIMITERS[suffix])
        else:
            yield from _read_lines(output)
    except UnicodeDecodeError as problem:
        raise _not_ours(output, "it is not UTF-8") from problem
    except OSError as problem:
        raise OlcError(f"{output} cannot be read: {problem.strerror}", "check the path and its permissions") from problem


def _check_finished(output: Path) -> None:
    files = OutputFiles.of(output)
    if files.journal.is_file():
        journal = Journal.peek(files.journal)
        if journal.counts.done < journal.rows or not files.output.exists():
            cause = f"the batch of {output} is unfinished: {journal.counts.done} of {journal.rows} rows are done"
            raise UsageError(cause, "run its command again, which resumes it; --peek prints the rows so far", code="unfinished")
    if not files.output.is_file():
        what = "is not a file" if files.output.exists() else "does not exist"
        raise UsageError(f"{output} {what}", _NAME_IT)


class _ScoredError(Exception):
    """A row of `olc batch --score`."""


def _without_texts(output: Path) -> UsageError:
    cause = f"{output} was written with --score: its rows have no texts to compare with their answers"
    return UsageError(cause, "name the OUTPUT of a batch that completes its rows, or chooses: --choices", code="no_answers")


def _not_ours(output: Path, why: str) -> UsageError:
    return UsageError(f"{output} was not written by olc batch: {why}", _NAME_IT, code="not_output")


def _read_lines(output: Path) -> Iterator[Outcome]:
    with output.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                document = json.loads(line)
                outcome = _outcome(document)
            except _ScoredError:
                raise _without_texts(output) from None
            except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as problem:
                if isinstance(problem, UnicodeDecodeError):
                    raise
                raise _not_ours(output, f"line {number} is not a row of it") from problem
            yield outcome


def _outcome(document: Any) -> Outcome:
    """Raises whatever a document raises that is not a row."""
    answer = _answer(document.get(ANSWER))
    if "response" not in document:
        if isinstance(document.get("score"), dict) and document["finish_reason"] is None and document["error"] is None:
            raise _ScoredError
        failed = document["error"] is not None
        return Outcome(answer, None if failed else _text(document["text"]), _probabilities(document.get("choices")))
    if document["error"] is not None:
        return Outcome(answer, None)
    body = document["response"]["body"]
    chosen = body.get("olc")
    return Outcome(answer, _text(body["choices"][0]["text"]), _probabilities(None if chosen is None else chosen.get("choices")))


def _text(found: Any) -> str:
    if not isinstance(found, str):
        raise TypeError("text is not one")
    return found


def _answer(found: Any) -> str | None:
    """As a text; None for none. Numbers, true and false are what JSON writes."""
    if found is None or found == "":
        return None
    return found if isinstance(found, str) else json.dumps(found, ensure_ascii=False)


def _probabilities(choices: Any) -> Mapping[str, float] | None:
    """Those of a row's choices. A field of this name that is something else, such as one of the input, is none."""
    if not isinstance(choices, list) or not choices:
        return None
    try:
        found = {choice["text"]: float(choice["probability"]) for choice in choices}
    except (TypeError, KeyError, ValueError):
        return None
    # JSON as Python reads it may have NaN.
    return found if all(0 <= probability <= 1 for probability in found.values()) else None


def _read_table(output: Path, delimiter: str) -> Iterator[Outcome]:
    csv.field_size_limit(1 << 30)
    with output.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.DictReader(file, delimiter=delimiter, strict=True)
        try:
            for name in ("text", "error_code"):
                if name not in (rows.fieldnames or ()):
                    raise _not_ours(output, f"it has no column {name}")
            for row in rows:
                if None in row or None in row.values():
                    raise _not_ours(output, f"line {rows.line_num} has another number of cells than the header")
                failed = row["error_code"] != ""
                if not failed and row.get("score_logprob") and row.get("finish_reason") == "":
                    raise _without_texts(output)
                yield Outcome(row.get(ANSWER) or None, None if failed else row["text"], _cell(row.get("choices")))
        except csv.Error as problem:
            raise _not_ours(output, f"line {rows.line_num} is not valid CSV") from problem


def _cell(text: str | None) -> Mapping[str, float] | None:
    if not text or not text.startswith("["):
        return None
    try:
        return _probabilities(json.loads(text))
    except (ValueError, RecursionError):
        return None
