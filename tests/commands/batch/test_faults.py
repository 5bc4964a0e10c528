"""`olc batch` where something goes wrong: real processes, real kills, real signals, full disks. Nothing lost, nothing twice."""

import json
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from openllama_cli.commands.batch.run import GRACE_SECONDS, GracefulStop
from openllama_cli.errors import Terminated
from tests.conftest import Olc
from tests.support.batches import GREEDY, finished, read, wait_for
from tests.support.forked import Forked, fork

ROWS = 60
Command = tuple[str, ...]


def write_rows(file: Path) -> Path:
    """Rows that take a while: some sample, some are wrong."""
    rng = random.Random(0)
    lines = []
    for index in range(ROWS):
        if index % 17 == 5:
            lines.append(b"{not json")
            continue
        document: dict[str, Any] = {"prompt": "the quick brown fox " * rng.randrange(0, 4), "custom_id": f"id-{index}"}
        if index % 3 == 0:
            document |= {"temperature": 1.0, "seed": index}
        lines.append(json.dumps(document).encode())
    file.write_bytes(b"\n".join(lines) + b"\n")
    return file


@pytest.fixture
def rows_file(tmp_path: Path) -> Path:
    return write_rows(tmp_path / "rows.jsonl")


@pytest.fixture(scope="module")
def whole(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The output of a run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    output = folder / "out.jsonl"
    source = write_rows(folder / "rows.jsonl")
    run = fork("batch", str(source), "-o", str(output), *GREEDY, "-m", str(tiny_model), "--batch-size", "3")
    assert run.code == 3, run.messages
    assert [row["index"] for row in read(output)] == list(range(ROWS))
    return output.read_bytes()


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "out.jsonl"


@pytest.fixture
def command(rows_file: Path, output: Path, model: str) -> Command:
    return ("batch", str(rows_file), "-o", str(output), *GREEDY, "-m", model, "--batch-size", "2")


@pytest.fixture
def assert_whole(whole: bytes, rows_file: Path, output: Path) -> Callable[[], None]:
    """Checks the output: every row once, in order, the bytes of a run that nothing disturbed, and nothing beside it but the
    journal and the record.
    """

    def check() -> None:
        assert output.read_bytes() == whole
        beside = {rows_file.name, output.name, output.name + ".journal", output.name + ".record.json"}
        assert {path.name for path in output.parent.iterdir()} == beside

    return check


@pytest.mark.slow
@pytest.mark.parametrize("point", ["amid append", "amid output"])
def test_kills_at_armed_points_lose_nothing_and_repeat_nothing(
    olc: Olc, output: Path, command: Command, assert_whole: Callable[[], None], point: str
) -> None:
    killed = Forked(*command, code=f"from tests.support.dying_writer import arm; arm({point!r}, 35)")
    assert killed.wait() == -signal.SIGKILL, killed.err.decode()
    assert not output.exists()
    assert finished(output) > 30
    assert olc(*command).code == 3
    assert_whole()


@pytest.mark.slow
def test_ctrl_c_keeps_what_is_done_and_says_how_to_go_on(
    olc: Olc, rows_file: Path, output: Path, command: Command, assert_whole: Callable[[], None]
) -> None:
    with Forked(*command) as run:
        wait_for(lambda: finished(output) >= 10, run)
        run.send_signal(signal.SIGSTOP)  # Nothing is done between counting and Ctrl-C.
        wait_for(lambda: "State:\tT" in Path(f"/proc/{run.pid}/status").read_text(), run)
        done = finished(output)
        run.send_signal(signal.SIGINT)
        run.send_signal(signal.SIGCONT)
        assert run.wait() == 130
    assert finished(output) <= done + 3, "two rows were in flight, and one may just have been begun"
    said = run.err.decode()
    assert "Traceback" not in said
    assert f"olc batch {rows_file}" in said
    assert not output.with_name("out.jsonl.lock").exists()
    assert olc(*command).code == 3
    assert_whole()


def _signal_and_go_on(number: signal.Signals) -> None:
    signal.raise_signal(number)
    while True:
        time.sleep(0.001)


@pytest.mark.parametrize(("number", "raised"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated)])
def test_rows_in_flight_that_go_on_are_interrupted_after_a_moment(
    monkeypatch: pytest.MonkeyPatch, number: signal.Signals, raised: type[BaseException]
) -> None:
    assert GRACE_SECONDS <= 2
    monkeypatch.setattr("openllama_cli.commands.batch.run.GRACE_SECONDS", 0.01)
    with GracefulStop() as stop:
        stop.running = True
        with pytest.raises(raised):
            _signal_and_go_on(number)
        assert stop.requested


@pytest.mark.slow
def test_a_terminated_run_of_stdin_is_kept_and_gone_on_with(
    olc: Olc, rows_file: Path, output: Path, command: Command, assert_whole: Callable[[], None]
) -> None:
    arguments = ("batch", "-", "--format", "jsonl", *command[2:])
    with rows_file.open("rb") as rows, Forked(*arguments, stdin=rows) as run:
        wait_for(lambda: finished(output) >= 10, run)
        run.send_signal(signal.SIGTERM)
        assert run.wait(30) == 143
    said = run.err.decode()
    assert "Traceback" not in said
    assert f"< {output}.input" in said
    assert not output.with_name("out.jsonl.lock").exists()
    # The same command without its pipe: an empty stdin.
    assert olc(*arguments, stdin=b"").code == 3
    assert_whole()


def test_a_reader_of_the_progress_that_leaves_does_not_end_the_batch(model: str, tmp_path: Path, output: Path) -> None:
    source = tmp_path / "in.txt"
    source.write_text("one\ntwo\n")
    read_end, write_end = os.pipe()
    os.close(read_end)
    run = Forked("batch", str(source), "-o", str(output), *GREEDY, "-m", model, "--json-progress", stdout=write_end)
    os.close(write_end)
    assert run.wait() == 0
    assert b"Traceback" not in run.err
    assert len(read(output)) == 2


def test_two_runs_at_once_are_refused_with_the_holder_named(olc: Olc, command: Command, tmp_path: Path) -> None:
    arguments = (*command, "-n", "100")
    with Forked(*arguments) as run:
        lock = tmp_path / "out.jsonl.lock"
        wait_for(lambda: lock.exists() and lock.stat().st_size > 0, run)
        second = olc(*arguments)
        run.kill()
    assert second.code == 2
    assert str(run.pid) in second.messages


@pytest.mark.slow
def test_a_full_disk_keeps_the_journal_and_the_run_goes_on_with_room(
    olc: Olc, output: Path, command: Command, assert_whole: Callable[[], None]
) -> None:
    full = Forked(*command, file_size=6_000)
    assert full.wait() == 1
    assert len(full.err.decode().splitlines()[-2:]) == 2
    assert b"Traceback" not in full.err
    kept = finished(output)
    assert 5 < kept < ROWS
    again = olc(*command)
    assert again.code == 3
    assert f"{kept} of {ROWS} rows are done" in again.messages
    assert_whole()


@pytest.mark.slow
def test_a_folder_that_vanishes_is_two_lines(command: Command, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    output = folder / "out.jsonl"
    with Forked(*command, "-o", str(output)) as run:
        wait_for(lambda: finished(output) >= 3, run)
        shutil.rmtree(folder)
        assert run.wait(60) == 1
    assert b"Traceback" not in run.err
    assert str(folder) in run.err.decode()


MEASURED = """
import atexit, resource, sys
atexit.register(lambda: print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr))
"""


@pytest.mark.slow
def test_memory_stays_flat_with_many_rows(model: str, tmp_path: Path) -> None:
    """Rows that are wrong need no model time: thousands of them pass in seconds, and must not pile up."""

    def peak(name: str, rows: int) -> int:
        source, output = tmp_path / name, tmp_path / f"{name}.out"
        wrong = "".join(json.dumps({"prompt": 5, "custom_id": f"{index:02000}"}) + "\n" for index in range(rows))
        source.write_text('{"prompt": "one", "max_tokens": 1}\n' + wrong)
        run = Forked("batch", str(source), "-o", str(output), "--format", "jsonl", "-m", model, code=MEASURED)
        assert run.wait() == 3, run.err.decode()
        assert output.read_bytes().count(b"\n") == rows + 1
        return int(run.err.split()[-1])

    # A few rows first: what torch, transformers and the model take.
    base = peak("few.jsonl", 1)
    assert peak("many.jsonl", 15_000) - base < 25_000, "kilobytes more than a small batch needs; the names alone have 30,000"


def test_a_template_without_variables_earns_a_hint(olc: Olc, tmp_path: Path) -> None:
    template, source = tmp_path / "same.toml", tmp_path / "rows.csv"
    template.write_text('template = "Say hello:"\n')
    source.write_text("a\n1\n")
    ran = olc("batch", str(source), "-t", str(template), "--show-prompt", "-m", "demo")
    assert ran.code == 0
    assert "every row gets the same prompt" in ran.messages
