"""Several processes, started by the real torchrun on loopback, that hold one model together. gloo on the CPU.

One test starts a rank afresh, as torchrun does; the others are forks, and so is torchrun: see
`tests.support.forked_torchrun`.
"""

import json
import os
import signal
import socket
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.conftest import Result
from tests.support.batches import finished
from tests.support.forked import fork
from tests.support.forked_torchrun import launch
from tests.support.models.tiny_models import write_meta_llama, write_tiny_llama

pytestmark = pytest.mark.slow

GREEDY = ("--dtype", "float32", "-n", "12")
ROWS = 120
# Loads a rank's shard of a model as `olc` does, and prints how much it holds.
_HELD = """
import json, os, sys
from pathlib import Path
from openllama_cli.models.spec import ModelFolder
from openllama_cli.models.loading.ranks import rank_info
from openllama_cli.generation.distributed.group import Group
from openllama_cli.generation.distributed.load import load_shard
from openllama_cli.models.opened import OpenedModel

path = Path(sys.argv[1])
group = Group(rank_info())
group.join("cpu")
model = load_shard(OpenedModel.of(ModelFolder(path, "model")), "float32", group).model
parts = {name: (part.to_local() if hasattr(part, "to_local") else part) for name, part in model.named_parameters()}
held = {"elements": 0, "norms": 0, "whole": sum(part.numel() for part in model.parameters())}
for name, part in parts.items():
    held["elements"] += part.numel()
    held["norms"] += part.numel() * ("norm" in name)
os.write(1, (json.dumps(held) + "\\n").encode())
group.barrier()
os._exit(0)
"""


def torchrun(*arguments: str, options: Sequence[str] = ("--nproc-per-node", "2")) -> list[str]:
    """The arguments of torchrun."""
    return [*options, "-m", "openllama_cli", *arguments]


def run(*arguments: str, options: Sequence[str] = ("--nproc-per-node", "2"), before: str = "") -> Result:
    process = launch(*torchrun(*arguments, options=options), before=before)
    return Result(process.wait(), process.out, process.err)


def alone(*arguments: str) -> Result:
    """In one process."""
    return fork(*arguments)


class Running:
    """A batch under torchrun in the middle of its rows."""

    def __init__(self, model: Path, folder: Path) -> None:
        self.source, self.output = folder / "rows.txt", folder / "out.jsonl"
        self.source.write_text("".join(f"the quick brown fox {row}\n" for row in range(ROWS)))
        self.arguments = ["batch", str(self.source), "-o", str(self.output), "-m", str(model), *GREEDY, "--batch-size", "4"]
        self.errors = folder / "stderr"
        tell = f"open({str(folder)!r} + '/' + os.environ['RANK'] + '.rank', 'w').write(str(os.getpid()))"
        with self.errors.open("wb") as errors:
            self.process = launch(*torchrun(*self.arguments), stderr=errors, before=tell)
        ends = time.monotonic() + 90
        while finished(self.output) < 8:
            assert self.process.poll() is None, self.errors.read_text()
            assert time.monotonic() < ends
            time.sleep(0.02)
        self.ranks = {int(file.stem): int(file.read_text()) for file in folder.glob("*.rank")}
        assert sorted(self.ranks) == [0, 1]

    def ends_within(self, seconds: float) -> int:
        """torchrun's exit code, once it and all of its ranks are gone."""
        ends = time.monotonic() + seconds
        code = self.process.wait(seconds)
        while left := [pid for pid in self.ranks.values() if Path(f"/proc/{pid}").exists()]:
            assert time.monotonic() < ends, f"processes {left} are left"
            time.sleep(0.02)
        print(self.messages)  # For who reads of a test that failed.
        return code

    @property
    def messages(self) -> str:
        return self.errors.read_text()


@pytest.fixture
def running(tiny_model: Path, tmp_path: Path) -> Iterator[Running]:
    batch = Running(tiny_model, tmp_path)
    yield batch
    for process in batch.ranks.values():
        if Path(f"/proc/{process}").exists():
            os.kill(process, signal.SIGKILL)
    batch.process.kill()
    batch.process.wait()


def test_a_score_is_that_of_one_process(tiny_model: Path) -> None:
    arguments = ("score", "the quick brown fox " * 40, "--json", "--stride", "99", "--dtype", "float32", "-m", str(tiny_model))
    found, wanted = (json.loads(result.text) for result in (run(*arguments), alone(*arguments)))
    assert found["olc"]["windows"] == wanted["olc"]["windows"] > 1
    logprobs = [[entry["logprob"] for entry in document["entries"]] for document in (found, wanted)]
    assert logprobs[0] == pytest.approx(logprobs[1], abs=1e-4)


def test_a_meta_folder_of_two_shards_runs_without_nccl_and_equals_one_process(tmp_path: Path) -> None:
    model = str(write_meta_llama(tmp_path / "model", shards=2))
    single = alone("complete", "the quick brown fox", "-m", model, *GREEDY)
    prompt = tmp_path / "prompt"
    prompt.write_bytes(b"the quick brown fox")
    with prompt.open("rb") as stdin:
        shared = launch(*torchrun("complete", "-", "-m", model, *GREEDY), stdin=stdin, fresh=True)
    assert shared.wait() == single.code == 0, shared.err.decode()
    messages = shared.err.decode()
    assert shared.out == single.out
    assert messages.count("olc: model split over 2 processes: Gloo, on the CPU, 1 thread each") == 1


def test_each_process_holds_its_part_of_the_weights(tmp_path: Path) -> None:
    """A model that is too large for one device is not loaded completely by every process."""
    model = write_tiny_llama(tmp_path / "model", layers=4)
    script = tmp_path / "script.py"
    script.write_text(_HELD)
    process = launch("--nproc-per-node", "2", str(script), str(model))
    assert process.wait() == 0, process.err.decode()
    held = [json.loads(line) for line in process.out.splitlines()]
    assert len(held) == 2
    for part in held:
        # Norms are complete on every rank; everything else is halved.
        assert part["elements"] - part["norms"] == (part["whole"] - part["norms"]) / 2


def test_a_number_of_processes_that_does_not_fit_is_refused_once(tiny_model: Path) -> None:
    refused = run("complete", "x", "-m", str(tiny_model), options=("--nproc-per-node", "3"))
    assert refused.code != 0
    assert refused.out == b""
    assert refused.messages.count("error:") == 1
    assert "cannot be split over 3 processes: its 4 heads and 2 key/value heads" in refused.messages
    assert "start 1 or 2 processes in total" in refused.messages


def test_a_choice_is_that_of_one_process(tiny_model: Path) -> None:
    options = ("--choices", "jumps,jumps over,sits", "--calibrate", "--json", "--dtype", "float32", "-m", str(tiny_model))
    ours, theirs = (
        json.loads(made.out) for made in (run("complete", "the fox", *options), alone("complete", "the fox", *options))
    )
    assert ours["choices"] == theirs["choices"]
    assert [one["text"] for one in ours["olc"]["choices"]] == ["jumps", "jumps over", "sits"]
    for name in ("logprob", "score", "probability"):
        found, wanted = ([one[name] for one in made["olc"]["choices"]] for made in (ours, theirs))
        assert found == pytest.approx(wanted, abs=1e-4)


def test_the_scores_of_a_batch_are_those_of_one_process(tiny_model: Path, tmp_path: Path) -> None:
    source = tmp_path / "rows.csv"
    source.write_text("prompt,ground\nthe blue whale,Q: \nthe quick brown fox,\n")
    command = ("batch", str(source), "--score", "--context-column", "ground", "--dtype", "float32", "-m", str(tiny_model))
    made = []
    for number, start in enumerate((run, alone)):
        output = tmp_path / f"{number}.jsonl"
        result = start(*command, "-o", str(output))
        assert result.code == 0, result.messages
        made.append([json.loads(line)["score"] for line in output.read_text().splitlines()])
    ours, theirs = made
    assert len(ours) == len(theirs) == 2
    for found, wanted in zip(ours, theirs, strict=True):
        assert found == pytest.approx(wanted, abs=1e-4, rel=1e-4)


def test_a_killed_rank_ends_all_and_the_batch_is_resumed_by_one_process(running: Running) -> None:
    os.kill(running.ranks[1], signal.SIGKILL)
    assert running.ends_within(30) != 0
    assert running.messages.count("error:") == 1
    assert f"error: rank 1 of 2 (process {running.ranks[1]} on " in running.messages
    assert not running.output.exists()
    done = finished(running.output)
    assert 8 <= done < ROWS
    resumed = alone(*running.arguments, "--batch-size", "40")
    assert resumed.code == 0, resumed.messages
    assert f"resuming: {done} of {ROWS} rows are done" in resumed.messages
    fresh = running.output.with_name("fresh.jsonl")
    alone(*running.arguments, "-o", str(fresh), "--batch-size", "40")
    assert running.output.read_bytes() == fresh.read_bytes()


def test_a_killed_rank_0_ends_all_and_is_named(running: Running) -> None:
    os.kill(running.ranks[0], signal.SIGKILL)
    assert running.ends_within(30) != 0
    assert running.messages.count("error:") == 1
    assert f"error: rank 0 of 2 (process {running.ranks[0]} on " in running.messages


def test_a_rank_that_cannot_load_the_model_ends_all_and_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tiny_llama(tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    # Another current folder for rank 1 makes it what a second host without the model is.
    failed = run("complete", "x", "-m", "./model", *GREEDY, before="if os.environ['RANK'] == '1': os.chdir('/')")
    assert failed.code != 0
    assert failed.out == b""
    assert failed.messages.count("error:") == 1
    assert "error: rank 1: the folder ./model does not exist" in failed.messages


def test_a_killed_torchrun_leaves_no_process_behind(running: Running) -> None:
    running.process.kill()
    running.ends_within(30)
    assert running.messages.count("error:") == 1
    assert f"torchrun (process {running.process.pid} on " in running.messages


def test_sigterm_ends_all_ranks_with_what_it_takes_to_go_on(running: Running) -> None:
    running.process.send_signal(signal.SIGTERM)
    assert running.ends_within(30) != 0
    assert "error:" not in running.messages
    assert f"of {ROWS} rows done; to resume:\n  olc batch {running.source}" in running.messages


def run_on_two_hosts(*options: Sequence[str], arguments: Sequence[str]) -> list[bytes]:
    """What two agents of torchrun on loopback print, each as a host. options: of each agent."""
    hosts = [launch(*torchrun(*arguments, options=("--nnodes", "2", *own))) for own in options]
    try:
        codes = [host.wait(90) for host in hosts]
    finally:
        for host in hosts:
            host.kill()
    assert codes == [0, 0], [host.err.decode() for host in hosts]
    return [host.out for host in hosts]


def free_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def test_the_demo_model_on_two_hosts_equals_one_process_and_node_rank_0_answers() -> None:
    """The README's command."""
    prompts = ["Q: What is the largest animal?\nA:", "Once upon a time", "The capital of France is"]
    arguments = ("generate", *prompts, "--temperature", "0", "--json", "-m", "demo", *GREEDY)
    meeting = ("--nproc-per-node", "1", "--master-addr", "127.0.0.1", "--master-port", free_port())
    first, second = run_on_two_hosts(("--node-rank", "0", *meeting), ("--node-rank", "1", *meeting), arguments=arguments)
    ours, theirs = (json.loads(out)["completions"] for out in (first, alone(*arguments).out))
    assert [row["tokens"] for row in ours] == [row["tokens"] for row in theirs]
    assert [row["text"] for row in ours] == [row["text"] for row in theirs]
    assert second == b""


def test_a_seed_and_a_stop_mean_the_same_on_four_processes_that_meet_and_divide_nothing_evenly(tmp_path: Path) -> None:
    uneven = {"heads": 8, "kv_heads": 4, "intermediate": 50, "vocab": 401}
    model = str(write_tiny_llama(tmp_path / "model", safe=False, sharded=True, **uneven))
    options = ("complete", "the quick brown fox", "-m", model, "--temperature", "0.7", "--seed", "7", *GREEDY)
    whole = alone(*options)
    stopped = (*options, "--stop", whole.text[len(whole.text) // 2 :][:3])
    same = (
        "--nproc-per-node",
        "2",
        "--rdzv-backend",
        "c10d",
        "--rdzv-endpoint",
        f"127.0.0.1:{free_port()}",
        "--rdzv-id",
        "olc",
    )
    single = alone(*stopped).out
    assert sorted(run_on_two_hosts(same, same, arguments=stopped)) == [b"", single]
    assert len(single) < len(whole.out)
