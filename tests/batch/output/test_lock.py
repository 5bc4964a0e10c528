"""Two processes at once: one writes, the other is told who does."""

import errno
import fcntl
import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from openllama_cli.batch.output import lock as lock_module
from openllama_cli.batch.output.lock import Holder, output_lock
from openllama_cli.batch.output.output import OutputFiles
from openllama_cli.errors import UsageError

ROOT = Path(__file__).parents[3]


HOLD = """
import sys
from pathlib import Path
from openllama_cli.batch.output.lock import output_lock
with output_lock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""
NO_FLOCK = """
import errno, fcntl
def flock(*arguments):
    raise OSError(errno.ENOLCK, "No locks available")
fcntl.flock = flock
"""
# Takes the lock again and again; whoever is inside with another one makes both know.
RACE = """
import os, sys, time
from pathlib import Path
from openllama_cli.batch.output.lock import output_lock
from openllama_cli.errors import UsageError
output, turns = Path(sys.argv[1]), 0
inside = output.with_name("inside")
deadline = time.monotonic() + 20
while turns < int(sys.argv[2]) and time.monotonic() < deadline:
    try:
        with output_lock(output):
            os.close(os.open(inside, os.O_CREAT | os.O_EXCL))
            turns += 1
            inside.unlink()
    except UsageError as error:
        assert error.code == "output_locked", error
print(turns)
"""


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "out.jsonl"


def holder(output: Path, before: str = "") -> subprocess.Popen[str]:
    """A process that holds the lock until its stdin is closed."""
    process = subprocess.Popen(
        [sys.executable, "-c", before + HOLD, str(output)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def refused(output: Path) -> UsageError:
    with pytest.raises(UsageError) as error, output_lock(output):
        pytest.fail("two hold the lock")
    assert error.value.code == "output_locked"
    return error.value


def dead_process() -> int:
    """The id of a process that has ended."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    return process.pid


def write_holder(lock: Path, pid: int, host: str | None = None) -> None:
    holder = {"pid": pid, "host": host or socket.gethostname(), "started": "2026-01-02T03:04:05Z", "command": "olc batch x"}
    lock.write_text(json.dumps(holder))


@pytest.fixture
def no_flock(monkeypatch: pytest.MonkeyPatch) -> str:
    """A file system without flock, in this process; the code that makes it so in another one."""

    def flock(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    return NO_FLOCK


@pytest.fixture(params=["flock", "no flock"])
def before(request: pytest.FixtureRequest) -> str:
    """Either kind of file system."""
    return "" if request.param == "flock" else str(request.getfixturevalue("no_flock"))


def test_the_lock_says_who_holds_it_and_goes_when_released(output: Path) -> None:
    lock = OutputFiles.of(output).lock
    with output_lock(output) as holder:
        assert json.loads(lock.read_bytes()) == vars(holder)
        assert holder.pid == os.getpid()
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", holder.started)
    assert list(output.parent.iterdir()) == []
    with output_lock(output):
        pass


def test_a_second_process_is_told_who_holds_the_lock(output: Path, before: str) -> None:
    with holder(output, before) as process:
        error = refused(output)
        assert f"{output} is being written by process {process.pid} on " in error.cause
        assert ", since 20" in error.cause
        assert f"kill {process.pid}" in error.remedy
        process.communicate()
    with output_lock(output):
        pass


def test_the_lock_of_a_killed_process_is_taken_over(output: Path, before: str) -> None:
    with holder(output, before) as process:
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    assert OutputFiles.of(output).lock.exists()
    with output_lock(output) as taken:
        assert json.loads(OutputFiles.of(output).lock.read_bytes())["pid"] == taken.pid
    assert list(output.parent.iterdir()) == []


def test_an_exception_releases_the_lock(output: Path) -> None:
    with pytest.raises(KeyboardInterrupt), output_lock(output):
        raise KeyboardInterrupt
    assert list(output.parent.iterdir()) == []


def test_two_names_of_one_output_share_a_lock(output: Path) -> None:
    link = output.with_name("link.jsonl")
    link.symlink_to(output)
    with output_lock(link), pytest.raises(UsageError, match="is being written by"), output_lock(output):
        pytest.fail("two hold the lock")


def test_other_outputs_are_not_locked(output: Path) -> None:
    with output_lock(output), output_lock(output.with_name("other.jsonl")):
        pass


@pytest.mark.parametrize("content", ["", "{", "[]", '{"pid": 1}', '{"pid": -1, "host": "", "started": "", "command": ""}'])
def test_a_lock_file_that_nobody_holds_means_nothing_whatever_it_says(output: Path, content: str) -> None:
    OutputFiles.of(output).lock.write_text(content)
    with output_lock(output):
        pass


@pytest.mark.usefixtures("no_flock")
def test_without_flock_a_nameless_lock_is_not_taken_over(output: Path) -> None:
    lock = OutputFiles.of(output).lock
    lock.write_text("{")
    assert f"if no olc is running, remove {lock}" in refused(output).remedy
    assert lock.exists()


def test_without_flock_a_lock_that_changed_hands_meanwhile_is_left_alone(output: Path) -> None:
    lock = OutputFiles.of(output).lock
    write_holder(lock, pid=os.getpid())
    dead = Holder(dead_process(), socket.gethostname(), "2026-01-02T03:04:05Z", "olc batch x")
    lock_module._remove_stale(dead, lock, output)
    assert list(output.parent.iterdir()) == [lock]
    write_holder(lock, pid=dead.pid)
    lock_module._remove_stale(dead, lock, output)
    assert list(output.parent.iterdir()) == []


@pytest.mark.usefixtures("no_flock")
def test_without_flock_a_takeover_that_was_killed_is_told(output: Path) -> None:
    files = OutputFiles.of(output)
    write_holder(files.lock, pid=dead_process())
    claim = files.lock.with_name(files.lock.name + ".claim")
    claim.touch()
    assert f"if no olc is running, remove {claim}" in refused(output).remedy
    claim.unlink()
    with output_lock(output):
        pass
    assert list(output.parent.iterdir()) == []


@pytest.mark.usefixtures("no_flock")
def test_without_flock_a_holder_on_another_machine_is_believed(output: Path) -> None:
    lock = OutputFiles.of(output).lock
    pid = dead_process()
    write_holder(lock, pid=pid, host="node17.example")
    error = refused(output)
    assert f"by process {pid} on node17.example, since 2026-01-02T03:04:05Z" in error.cause
    assert f"if node17.example is down, remove {lock}" in error.remedy


def test_a_lock_that_was_removed_by_hand_does_not_take_the_next_one_with_it(output: Path) -> None:
    lock = OutputFiles.of(output).lock
    with output_lock(output):
        lock.unlink()
        with output_lock(output):
            pass
        lock.write_text("another's")
    assert lock.read_text() == "another's"


def test_a_lock_that_is_a_broken_link_or_a_folder_is_told(output: Path) -> None:
    lock = OutputFiles.of(output).lock
    for make in (lambda: lock.symlink_to(output.with_name("nowhere") / "at all"), lambda: (lock.unlink(), lock.mkdir())):
        make()
        with pytest.raises(UsageError, match="cannot be written"), output_lock(output):
            pytest.fail("locked")


def test_of_many_processes_only_one_is_ever_inside(output: Path, before: str) -> None:
    write_holder(OutputFiles.of(output).lock, pid=dead_process())
    command = [sys.executable, "-c", before + RACE, str(output), "100"]
    racers = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT) for _ in range(4)]
    ends = [racer.communicate(timeout=60) for racer in racers]
    assert [errors for _, errors in ends] == [""] * 4
    assert [said.strip() for said, _ in ends] == ["100"] * 4
    assert list(output.parent.iterdir()) == []
