"""How fast rows are journalled: python -m openllama_cli.benchmark.journal [ROWS] [FOLDER] [--sqlite]

Appends ROWS rows (100,000) of the size of a short completion to a journal in a new folder inside FOLDER (the temporary folder),
with every flush that a batch makes; then opens it again, as a resumed batch does, and writes OUTPUT. Prints one line of JSON.
Nothing is warmed up. Name a FOLDER on the disk that matters: on a tmpfs a flush costs nothing.

--sqlite compares it with SQLite, three times in turn: with as much durability (every row survives a kill, every 64 rows are on
the disk: a commit a row and a checkpoint every 64), and with less (a kill loses up to 63 finished rows: a commit every 64).
"""

import argparse
import json
import platform
import sqlite3
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from openllama_cli.batch.journal.journal import SYNC_ROWS, Journal
from openllama_cli.batch.output.output import write_output
from openllama_cli.batch.output.results import Result

HEADER = {"input": {"sha256": "0" * 64}, "model": {}, "tokenizer": None, "template": None, "options": {}}
_TURNS = 3


def result(index: int) -> Result:
    """A finished row as `olc batch` writes it, some 300 bytes."""
    document: dict[str, Any] = {
        "custom_id": f"row-{index}",
        "index": index,
        "prompt": "Q: What is the largest animal?\nA:",
        "text": " The largest animal that has ever lived is the blue whale; it can be 30 metres long.",
        "finish_reason": "stop",
        "usage": {"prompt_tokens": 12, "completion_tokens": 24, "total_tokens": 36},
        "error": None,
    }
    return Result(index, None, document)


def measure(lines: Sequence[bytes], folder: Path) -> dict[str, Any]:
    """Journal rows in an empty folder. Seconds, rows per second, bytes, as printed."""
    rows = len(lines)
    path, output = folder / "output.jsonl.journal", folder / "output.jsonl"
    started = time.perf_counter()
    with Journal.open(path, HEADER, rows) as journal:
        for index, line in enumerate(lines):
            journal.append(index, None, line)
    appended = time.perf_counter()
    size = path.stat().st_size
    with Journal.open(path, HEADER, rows) as journal:
        opened = time.perf_counter()
        write_output(journal, output)
    written = time.perf_counter()
    return {
        "rows": rows,
        "journal_bytes": size,
        "append_rows_per_s": round(rows / (appended - started)),
        "append_s": round(appended - started, 3),
        "reopen_s": round(opened - appended, 3),
        "write_output_s": round(written - opened, 3),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
    }


def measure_sqlite(lines: Sequence[bytes], folder: Path, *, commit_each: bool) -> tuple[float, float]:
    """Seconds to insert rows into a new database in WAL mode, and seconds to read them back in order.

    commit_each: commit every row, and flush with a checkpoint every 64; else a commit every 64 rows, which flushes.
    """
    path = folder / f"rows-{commit_each}.sqlite"
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    # NORMAL: a commit is written but not flushed; a checkpoint flushes. FULL: every commit is flushed.
    connection.execute(f"PRAGMA synchronous={'NORMAL' if commit_each else 'FULL'}")
    connection.execute("CREATE TABLE rows (row INTEGER PRIMARY KEY, code TEXT, line BLOB NOT NULL)")
    started = time.perf_counter()
    for index, line in enumerate(lines):
        if not commit_each and index % SYNC_ROWS == 0:
            connection.execute("BEGIN")
        connection.execute("INSERT INTO rows VALUES (?, NULL, ?)", (index, line))
        if index % SYNC_ROWS == SYNC_ROWS - 1 or index == len(lines) - 1:
            connection.execute("PRAGMA wal_checkpoint(PASSIVE)" if commit_each else "COMMIT")
    inserted = time.perf_counter()
    connection.close()
    connection = sqlite3.connect(path)
    read = time.perf_counter()
    for _ in connection.execute("SELECT line FROM rows ORDER BY row"):
        pass
    finished = time.perf_counter()
    connection.close()
    return inserted - started, finished - read


def main() -> None:
    """Print the line of JSON that the command line asks for."""
    parser = argparse.ArgumentParser(
        prog="python -m openllama_cli.benchmark.journal", description="Time the journal of olc batch."
    )
    parser.add_argument("rows", type=int, nargs="?", default=100_000, metavar="ROWS")
    parser.add_argument("folder", nargs="?", metavar="FOLDER")
    parser.add_argument("--sqlite", action="store_true", help="compare with SQLite")
    options = parser.parse_args()
    lines = [result(index).line() for index in range(options.rows)]
    if not options.sqlite:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            print(json.dumps(measure(lines, Path(folder))))
        return
    speeds: dict[str, list[int]] = {"journal": [], "sqlite_same_durability": [], "sqlite_commit_every_64": []}
    reading: dict[str, list[float]] = {name: [] for name in speeds}
    for _ in range(_TURNS):
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            own = measure(lines, Path(folder))
            speeds["journal"].append(own["append_rows_per_s"])
            reading["journal"].append(own["write_output_s"])
            for key, commit_each in (("sqlite_same_durability", True), ("sqlite_commit_every_64", False)):
                inserting, seconds = measure_sqlite(lines, Path(folder), commit_each=commit_each)
                speeds[key].append(round(len(lines) / inserting))
                reading[key].append(round(seconds, 3))
    print(json.dumps({"rows": len(lines), "rows_per_s": speeds, "read_s": reading, "sqlite": sqlite3.sqlite_version}))


if __name__ == "__main__":
    main()
