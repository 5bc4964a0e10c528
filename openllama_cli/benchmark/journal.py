"""How fast rows are journalled: python -m openllama_cli.benchmark.journal [ROWS] [FOLDER]

Appends ROWS rows (100,000) of the size of a short completion to a journal in a new folder inside FOLDER (the temporary folder),
with every flush that a batch makes; then opens it again, as a resumed batch does, and writes OUTPUT. Prints one line of JSON.
Nothing is warmed up. Name a FOLDER on the disk that matters: on a tmpfs a flush costs nothing.
"""

import json
import platform
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from openllama_cli.batch.journal.journal import Journal
from openllama_cli.batch.output.output import write_output
from openllama_cli.batch.output.results import Result

ROWS = 100_000
HEADER = {"input": {"sha256": "0" * 64}, "model": {}, "tokenizer": None, "template": None, "options": {}}


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


def measure(rows: int, folder: Path) -> dict[str, object]:
    """Journal `rows` rows in an empty folder. Seconds, rows per second, bytes, as printed."""
    lines = [result(index).line() for index in range(rows)]
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


def main() -> None:
    """Run the benchmark of the command line, and print its line."""
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else ROWS
    with tempfile.TemporaryDirectory(dir=sys.argv[2] if len(sys.argv) > 2 else None) as folder:
        print(json.dumps(measure(rows, Path(folder))))


if __name__ == "__main__":
    main()
