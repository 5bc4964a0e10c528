"""Several processes, started by the real torchrun on loopback, that hold one model together. gloo on the CPU."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.conftest import Result
from tests.forked import Forked
from tests.tiny_models import write_meta_llama

pytestmark = pytest.mark.slow

ENV = {**os.environ, "OMP_NUM_THREADS": "1"}
GREEDY = ("--dtype", "float32", "-n", "24")
ROWS = 160


def torchrun(*arguments: str, options: Sequence[str] = ("--nproc-per-node", "2")) -> list[str]:
    return [sys.executable, "-m", "torch.distributed.run", *options, "-m", "openllama_cli", *arguments]


def run(*arguments: str, stdin: bytes = b"", options: Sequence[str] = ("--nproc-per-node", "2")) -> Result:
    ended = subprocess.run(torchrun(*arguments, options=options), input=stdin, capture_output=True, timeout=120, env=ENV)
    return Result(ended.returncode, ended.stdout, ended.stderr)


def alone(*arguments: str) -> Result:
    """In one process, with as many threads."""
    process = Forked(*arguments, code="import torch; torch.set_num_threads(1)")
    return Result(process.wait(), process.out, process.err)


def ranks_of(launcher: int) -> dict[int, int]:
    """Rank → process, of the processes that a torchrun started."""
    found = {}
    for folder in Path("/proc").iterdir():
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            variables = dict(pair.partition(b"=")[::2] for pair in (folder / "environ").read_bytes().split(b"\0"))
        except (OSError, ValueError, IndexError):
            continue
        if parent == launcher and b"RANK" in variables:
            found[int(variables[b"RANK"])] = int(folder.name)
    return found


class Running:
    """A batch under torchrun in the middle of its rows."""

    def __init__(self, model: Path, folder: Path) -> None:
        self.source, self.output = folder / "rows.txt", folder / "out.jsonl"
        self.source.write_text("".join(f"the quick brown fox {row}\n" for row in range(ROWS)))
        self.arguments = ["batch", str(self.source), "-o", str(self.output), "-m", str(model), *GREEDY]
        self.errors = folder / "stderr"
        with self.errors.open("wb") as errors:
            self.process = subprocess.Popen(
                torchrun(*self.arguments), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors, env=ENV
            )
        ends = time.monotonic() + 90
        while self.done() < 20:
            assert self.process.poll() is None, self.errors.read_text()
            assert time.monotonic() < ends
            time.sleep(0.02)
        self.ranks = ranks_of(self.process.pid)
        assert sorted(self.ranks) == [0, 1]

    def done(self) -> int:
        """Whole rows in the journal."""
        journal = self.output.with_name(self.output.name + ".journal")
        return max(0, journal.read_bytes().count(b"\n") - 1) if journal.exists() else 0

    def ends_within(self, seconds: float) -> int:
        """torchrun's exit code, once it and all of its ranks are gone."""
        ends = time.monotonic() + seconds
        code = self.process.wait(seconds)
        while left := [pid for pid in self.ranks.values() if Path(f"/proc/{pid}").exists()]:
            assert time.monotonic() < ends, f"processes {left} are left"
            time.sleep(0.02)
        return code

    @property
    def messages(self) -> str:
        return self.errors.read_text()


@pytest.fixture
def running(tiny_model: Path, tmp_path: Path) -> Iterator[Running]:
    batch = Running(tiny_model, tmp_path)
    yield batch
    for process in (batch.process.pid, *batch.ranks.values()):
        if Path(f"/proc/{process}").exists():
            os.kill(process, signal.SIGKILL)
    batch.process.wait()


def test_a_meta_folder_of_two_shards_runs_without_nccl_and_equals_one_process(tmp_path: Path) -> None:
    model = str(write_meta_llama(tmp_path / "model", shards=2))
    single = alone("complete", "the quick brown fox", "-m", model, *GREEDY)
    shared = run("complete", "-", "-m", model, *GREEDY, stdin=b"the quick brown fox")
    assert shared.code == single.code == 0, shared.messages
    assert shared.out == single.out
    assert shared.messages.count("olc: one model over 2 processes: gloo, on the CPU with 1 thread each") == 1


def test_a_number_of_processes_that_does_not_fit_is_refused_once(tiny_model: Path) -> None:
    refused = run("complete", "x", "-m", str(tiny_model), options=("--nproc-per-node", "3"))
    assert refused.code != 0
    assert refused.out == b""
    assert refused.messages.count("error:") == 1
    assert "cannot be divided over 3 processes: it has 4 heads and 2 key/value heads" in refused.messages
    assert "start 1 or 2 processes in all" in refused.messages


def test_a_killed_rank_ends_all_and_the_batch_is_resumed_by_one_process(running: Running) -> None:
    os.kill(running.ranks[1], signal.SIGKILL)
    assert running.ends_within(30) != 0
    assert running.messages.count("error:") == 1
    assert f"error: rank 1 of 2 (process {running.ranks[1]} on " in running.messages
    assert not running.output.exists()
    done = running.done()
    assert 20 <= done < ROWS
    resumed = alone(*running.arguments)
    assert resumed.code == 0, resumed.messages
    assert f"resuming: {done} of {ROWS} rows are done" in resumed.messages
    fresh = running.output.with_name("fresh.jsonl")
    alone(*(str(fresh) if argument == str(running.output) else argument for argument in running.arguments))
    assert running.output.read_bytes() == fresh.read_bytes()


def test_a_killed_torchrun_leaves_no_process_behind(running: Running) -> None:
    running.process.kill()
    running.ends_within(30)
    assert running.messages.count("error:") == 1
    assert f"torchrun (process {running.process.pid} on " in running.messages


def test_sigterm_ends_all_ranks_with_what_it_takes_to_go_on(running: Running) -> None:
    running.process.terminate()
    assert running.ends_within(30) != 0
    assert "error:" not in running.messages
    assert f"of {ROWS} rows done; to go on:\n  olc batch {running.source}" in running.messages


def test_the_demo_model_on_two_hosts_that_meet_at_a_rendezvous_equals_one() -> None:
    prompts = ["Q: What is the largest animal?\nA:", "Once upon a time", "The capital of France is"]
    arguments = ("generate", *prompts, "--temperature", "0", "--json", "-m", "demo", *GREEDY)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        endpoint = f"127.0.0.1:{free.getsockname()[1]}"
    options = ("--nnodes=2", "--nproc-per-node=1", "--rdzv-backend=c10d", f"--rdzv-endpoint={endpoint}", "--rdzv-id=olc")
    command = torchrun(*arguments, options=options)
    hosts = [
        subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENV)
        for _ in range(2)
    ]
    try:
        ended = [host.communicate(timeout=90) for host in hosts]
    finally:
        for host in hosts:
            host.kill()
    assert [host.returncode for host in hosts] == [0, 0], ended
    (silent, shared) = sorted(out for out, _ in ended)
    assert silent == b""
    ours, theirs = (json.loads(document)["completions"] for document in (shared, alone(*arguments).out))
    assert [row["tokens"] for row in ours] == [row["tokens"] for row in theirs]
    assert [row["text"] for row in ours] == [row["text"] for row in theirs]
