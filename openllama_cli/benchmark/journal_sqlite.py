"""The journal beside SQLite: python -m openllama_cli.benchmark.journal_sqlite [ROWS] [FOLDER]

Keeps ROWS rows (20,000) of the size of a short completion in turns, `TURNS` times each: in olc's journal; in SQLite with as
much durability (every row survives a kill, every 64 rows are on the disk: a commit a row and a checkpoint every 64); and in
SQLite with less (a kill loses up to 63 finished rows: a commit every 64). Prints one line of JSON: rows per second, and the
seconds that it takes to read them back in order. Name a FOLDER on the disk that matters: on a tmpfs a flush costs nothing.
"""

import json
import sqlite3
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from openllama_cli.batch.journal.journal import SYNC_ROWS
from openllama_cli.benchmark.journal import measure

ROWS = 20_000
TURNS = 3
# With its name, a row is as long as one of `benchmark.journal`.
LINE_BYTES = 260


def measure_sqlite(rows: Sequence[bytes], folder: Path, *, commit_each: bool) -> tuple[float, float]:
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
    for index, line in enumerate(rows):
        if not commit_each and index % SYNC_ROWS == 0:
            connection.execute("BEGIN")
        connection.execute("INSERT INTO rows VALUES (?, NULL, ?)", (index, line))
        if index % SYNC_ROWS == SYNC_ROWS - 1 or index == len(rows) - 1:
            connection.execute("PRAGMA wal_checkpoint(PASSIVE)" if commit_each else "COMMIT")
    inserted = time.perf_counter()
    connection.close()
    connection = sqlite3.connect(path)
    read = time.perf_counter()
    for _ in connection.execute("SELECT line FROM rows ORDER BY row"):
        pass
    finished = time.perf_counter()
    connection.close()
    path.unlink()
    return inserted - started, finished - read


def main() -> None:
    """Run the benchmark of the command line, and print its line."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else ROWS
    rows = [json.dumps({"custom_id": f"row-{index}", "text": "x" * LINE_BYTES}).encode() for index in range(count)]
    speeds: dict[str, list[int]] = {"journal": [], "sqlite_same_durability": [], "sqlite_commit_every_64": []}
    reading: dict[str, list[float]] = {name: [] for name in speeds}
    for _ in range(TURNS):
        with tempfile.TemporaryDirectory(dir=sys.argv[2] if len(sys.argv) > 2 else None) as name:
            folder = Path(name)
            own = measure(count, folder)
            speeds["journal"].append(int(str(own["append_rows_per_s"])))
            reading["journal"].append(float(str(own["write_output_s"])))
            for key, commit_each in (("sqlite_same_durability", True), ("sqlite_commit_every_64", False)):
                inserting, seconds = measure_sqlite(rows, folder, commit_each=commit_each)
                speeds[key].append(round(count / inserting))
                reading[key].append(round(seconds, 3))
    print(json.dumps({"rows": count, "rows_per_s": speeds, "read_s": reading, "sqlite": sqlite3.sqlite_version}))


if __name__ == "__main__":
    main()
