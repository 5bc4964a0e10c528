"""Mutated journals, CSV, JSON lines and templates: whatever becomes of them, olc's own errors come out, soon, and no wrong row.

A few hundred run with the tests. Thousands: python -m tests.batch.test_mutations [--count 5000] [--seed 1].
"""

import argparse
import json
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from openllama_cli.batch.input.precheck import precheck
from openllama_cli.batch.input.readers import FormatName, read_rows
from openllama_cli.batch.input.rows import RowSettings
from openllama_cli.batch.journal.journal import Journal
from openllama_cli.batch.output.results import failure
from openllama_cli.errors import OlcError
from openllama_cli.prompt_templates import load_template, template_names
from tests.support.dying_writer import HEADER, line

COUNT = 120
# Of one input; far more than any takes, for a busy machine.
SECONDS = 30.0

_PIECES = [
    *(b'"', b",", b"\n", b"\r", b"\r\n", b"\t", b"\\", b"\0", b"\xff", b"\xef\xbb\xbf", b"{", b"}", b"[", b"]", b": ", b"null"),
    *(b"NaN", b"1e999", b"-0", b"9" * 5000, b"[" * 3000, b'"a",b,"c\n' * 50, b'{"a": ' * 300, b"\\ud800", b"\\u0000"),
    *(
        b'"temp": "hot", ',
        b'"n": 2, ',
        b'"max-tokens": 5, ',
        b'"id": 7, ',
        b'"stop": [1], ',
        b'"body": {}, "url": 1, ',
        b"prompt",
    ),
    *(
        b"{{ x }}",
        b"{% for i in range(9) %}",
        b"{% endfor %}",
        b" ~ text",
        b" * 99999999",
        b"|replace('a', text)",
        b"**9",
        b"%}",
    ),
]
_ROWS = [
    {"custom_id": "a", "prompt": "größer", "max_tokens": 5, "label": [1, {"b": None}]},
    {"id": 3, "prompt": "x", "temperature": 0.5, "stop": ["\n"], "text": "y"},
    {"method": "POST", "url": "/v1/completions", "body": {"prompt": [1, 2], "n": 1}, "custom_id": "c"},
]
_TABLE = 'id,prompt,max-tokens,stop,country\n1,"one, ""two""\nthree",5,"[""Q:""]",FR\n2,größer,,,DE\n3,x,7,a,\n'


def mutate(data: bytes, chance: random.Random) -> bytes:
    """One to four changes: bytes flipped, cut, doubled, moved, or pieces put in that mean something."""
    for _ in range(chance.randint(1, 4)):
        start = chance.randrange(len(data) + 1)
        stop = min(len(data), start + chance.choice((1, 1, 3, 20, 200)))
        kind = chance.randrange(5)
        if kind == 0:
            data = data[:start] + bytes(byte ^ 1 << chance.randrange(8) for byte in data[start:stop]) + data[stop:]
        elif kind == 1:
            data = data[:start] + data[stop:]
        elif kind == 2:
            data = data[:stop] + data[start:stop] * chance.choice((1, 2, 30)) + data[stop:]
        else:
            data = data[:start] + chance.choice(_PIECES) + data[start:]
    return data


def _read(path: Path, fmt: FormatName) -> None:
    settings = RowSettings(max_line_bytes=100_000)
    summary = precheck(path, fmt, settings)
    rows = list(read_rows(path, fmt, settings))
    assert summary.rows == len(rows)
    for index, row in enumerate(rows):
        assert row.index == index
        assert (row.error is None) == (row.sampling is not None)
        json.loads(failure(row, "x", "y").line())  # what it carries can be written


def _journal(path: Path) -> None:
    with Journal.open(path, HEADER, 12) as journal:
        for index in range(12):
            if not journal.done(index):
                journal.append(index, None, line(index))
        assert journal.complete or list(journal.lines()) == [line(index) for index in range(12)]
    Journal.peek(path)


def _template(path: Path) -> None:
    template = load_template(str(path))
    template.render(dict.fromkeys(template.variables, "text"))


def _sound_journal(folder: Path) -> bytes:
    path = folder / "sound"
    with Journal.open(path, HEADER, 12, restart=True) as journal:
        for index in (4, 0, 3, 9, 7, 1, 2, 8):
            journal.append(index, {7: "invalid_json"}.get(index), line(index))
    return path.read_bytes()


def run(kind: str, count: int, seed: int, folder: Path) -> int:
    """Try `count` mutations of a kind; how many were read all the same. Raises what is no OlcError."""
    seeds: dict[str, tuple[list[bytes], Callable[[Path], None]]] = {
        "jsonl": (
            [b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in _ROWS)],
            lambda p: _read(p, "jsonl"),
        ),
        "csv": ([_TABLE.encode()], lambda path: _read(path, "csv")),
        "journal": ([_sound_journal(folder)], _journal),
        "template": ([(Path("prompts") / f"{name}.toml").read_bytes() for name in template_names()], _template),
    }
    sources, read = seeds[kind]
    chance, accepted = random.Random(f"{kind} {seed}"), 0
    for number in range(count):
        path = folder / "mutated"
        path.write_bytes(mutate(chance.choice(sources), chance))
        began = time.process_time()
        try:
            read(path)
            accepted += 1
        except OlcError:
            pass
        except BaseException as error:
            error.add_note(f"{kind}, seed {seed}, number {number}: {path.read_bytes()[:2000]!r}")
            raise
        assert time.process_time() - began < SECONDS, (kind, seed, number)
    return accepted


@pytest.mark.parametrize("kind", ["jsonl", "csv", "journal", "template"])
def test_mutated_files_end_in_olcs_own_errors_or_right_rows(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])
    assert run(kind, COUNT, 0, tmp_path) < COUNT, "nothing was broken"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=2000, help="of each kind")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        for tried in ("jsonl", "csv", "journal", "template"):
            print(f"{tried}: {run(tried, given.count, given.seed, Path(name))} of {given.count} were read")
