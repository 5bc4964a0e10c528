"""What the tests of the readers share."""

import json
from pathlib import Path
from typing import Any

from openllama_cli.batch.input.readers import input_format, read_rows
from openllama_cli.batch.input.rows import Row, RowSettings


def read_text(folder: Path, suffix: str, data: bytes | str, settings: RowSettings | None = None) -> list[Row]:
    """The rows of a file with this content."""
    path = folder / f"input{suffix}"
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return list(read_rows(path, input_format(path), settings or RowSettings()))


def read_object(folder: Path, fields: Any, settings: RowSettings | None = None) -> Row:
    """The row of a JSON Lines file that has this one line."""
    [row] = read_text(folder, ".jsonl", json.dumps(fields), settings)
    return row


def code_of(row: Row) -> str | None:
    """The code of a row's error; checks that a row has either an error or all that a run needs."""
    assert (row.error is None) == (row.sampling is not None)
    assert row.error is not None or row.prompt is not None or row.tokens is not None
    return None if row.error is None else row.error.code
