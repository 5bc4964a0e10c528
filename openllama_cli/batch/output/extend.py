"""An INPUT to which rows were added since its batch ran: the rows that it had are kept, and only the new ones run."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from openllama_cli.batch.journal import format as journal_format
from openllama_cli.batch.journal.disk import replacing
from openllama_cli.batch.journal.header import differences
from openllama_cli.batch.journal.journal import ROWS, Journal
from openllama_cli.batch.output.formats import keeps_all
from openllama_cli.batch.output.output import OutputFiles, is_output
from openllama_cli.errors import OlcError


@dataclass(frozen=True)
class Earlier:
    """What a journal says of the input that it was begun with: how many rows, and the hash of what is in them."""

    rows: int
    rows_sha256: str

    @classmethod
    def of(cls, files: OutputFiles) -> "Earlier | None":
        """None where there is no journal, none that can be read, or none that says it."""
        try:
            with files.journal.open("rb") as file:
                header = journal_format.read_header(file, files.journal)
            found = cls(header["rows"], header["input"]["rows_sha256"])
        except (OSError, OlcError, KeyError, TypeError):
            return None
        return found if type(found.rows) is int and isinstance(found.rows_sha256, str) else None


def extend(files: OutputFiles, header: Mapping[str, object], rows: int) -> int | None:
    """Give a journal the header of an input that has the same rows at its beginning, and more. The caller compared them.

    How many rows are kept; None where nothing was changed: other settings differ too, or the rows are no longer there.
    Raises OlcError when the disk refuses; the journal is then as it was.
    """
    wanted = journal_format.normalize(header, rows)
    with files.journal.open("rb") as file:
        before = journal_format.read_header(file, files.journal)
    same = ("rows", "input", "over")
    compared = [{name: value for name, value in one.items() if name not in same} for one in (before, wanted)]
    earlier, options = before.get("options"), wanted["options"]
    if isinstance(earlier, dict) and earlier.get("carry") is None:
        # The rows before had nothing to carry: what is to be carried makes no difference to them.
        compared[1]["options"] = options | {"carry": None}
    if differences(*compared):
        return None
    journal = Journal.peek(files.journal)
    if journal.output is not None and not (
        keeps_all(files.output) and files.output.exists() and is_output(files.output, journal.output)
    ):
        return None
    with replacing(files.journal) as file:
        file.write(journal_format.encode_header(wanted | {"over": True}))
        for record in _records(journal, files.output):
            file.write(record)
    return journal.counts.done


def _records(journal: Journal, output: Path) -> Iterator[bytes]:
    if journal.output is None:
        yield from journal.records()
        return
    # Which row was made where is no longer known; how many were, stays.
    begins, place = {}, 0
    for run in journal.runs:
        begins[place] = {name: value for name, value in run.items() if name != ROWS}
        place += run[ROWS] if type(run.get(ROWS)) is int else 0
    with output.open("rb") as file:
        for index, line in enumerate(file):
            if begins.get(index):
                yield journal_format.encode_record(None, None, json.dumps(begins[index]).encode(), ran=True)
            yield journal_format.encode_record(index, None, line.removesuffix(b"\n"))
