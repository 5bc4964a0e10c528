"""The driver of the Ray engine on real raylets: lost actors and machines, poison rows, stalls, and early refusals."""

import contextlib
import functools
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from openllama_cli.batch.input.rows import Row
from openllama_cli.batch.ray import cluster
from openllama_cli.batch.ray.options import Node, RayOptions, WorkerPlan
from openllama_cli.batch.ray.worker import RayWorker, Setup
from openllama_cli.errors import OlcError
from openllama_cli.generation.decode.config import SamplingConfig
from openllama_cli.models.spec import ModelSpec
from tests.conftest import Olc
from tests.support.batches import Kept, read
from tests.support.ray_workers import ObedientWorker, OldWorker

pytestmark = [
    pytest.mark.slow,
    # Ray leaves sockets and log files to the garbage collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]
ONE_CPU = WorkerPlan(workers=2, cpus=1, gpus=0, memory=0, per_node=1)
NO_MODEL = Setup(ModelSpec(), "none", {"files": {}, "revision": None}, "", None, 1)


class Machines:
    """Raylets on loopback: a head, to which the driver is connected, and others that come and go."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        with cluster._without_helpers():
            self.cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
        self.other: Any = None
        self.nodes: list[Node] = []
        self.add()

    def add(self) -> None:
        self.other = self.cluster.add_node(num_cpus=1, wait=False)

    def remove(self) -> None:
        self.cluster.remove_node(self.other, allow_graceful=False)


@pytest.fixture(scope="module")
def machines() -> Iterator[Machines]:
    """Two raylets with a CPU each, joined as `--ray-address HOST:PORT` joins them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # loopback
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        patch.setenv("RAY_prestart_worker_first_driver", "0")
        patch.setenv("RAY_enable_worker_prestart", "0")
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN", "0" * 64)
        started = Machines()
        try:
            with cluster.connect(RayOptions(started.cluster.address)) as nodes:
                assert Node(1, 0, nodes[0].memory) == nodes[0]
                started.nodes = nodes
                yield started
        finally:
            started.cluster.shutdown()


def rows(*prompts: str) -> list[Row]:
    return [Row(index, f"row-{index}", prompt, sampling=SamplingConfig(max_tokens=5)) for index, prompt in enumerate(prompts)]


def run(
    machines: Machines,
    todo: Iterable[Row],
    worker: type[RayWorker] = ObedientWorker,
    setup: Setup = NO_MODEL,
    plan: WorkerPlan = ONE_CPU,
    meanwhile: Callable[[Any, Kept], None] = lambda runner, kept: None,
    **timeouts: float,
) -> tuple[Kept, list[str]]:
    from openllama_cli.batch.ray.engine import RayRunner, Timeouts

    kept, notices = Kept(), []
    runner = RayRunner(
        setup, plan, 3000, kept.append, notice=notices.append, worker=worker, timeouts=replace(Timeouts(), **timeouts)
    )
    try:
        for _ in runner.run(todo):
            meanwhile(runner, kept)
    finally:
        runner.close()
    assert (runner.progress.rows, runner.progress.failed) == (len(kept.results), len(kept.failed))
    return kept, notices


def test_a_machine_that_goes_is_done_without_and_one_that_comes_is_used(machines: Machines) -> None:
    seen: list[set[str]] = [set()]  # machines that worked before the one went, and since
    given = 0

    def endless() -> Iterator[Row]:
        nonlocal given
        while len(seen) < 3 and given < 3000:
            yield from (replace(row, index=given) for row in rows("sleep"))
            given += 1

    def meanwhile(runner: Any, kept: Kept) -> None:
        working = {worker.info.node for worker in runner._workers if worker.rows}
        seen[-1] |= working
        if len(seen) == 1 and len(working) == 2 and len(kept.results) > 20:
            machines.remove()
            seen.append(set())
            machines.add()
        elif len(seen) == 2 and seen[1] - seen[0]:
            seen.append(set())

    kept, notices = run(machines, endless(), meanwhile=meanwhile)
    assert len(seen) == 3, "the machine that came was not used"
    assert sorted(kept.results) == list(range(given))
    assert not kept.failed
    assert any("lost the worker" in notice and "retrying" in notice for notice in notices)


def test_a_poison_row_becomes_an_error_row_and_spares_the_others(
    machines: Machines, olc: Olc, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the command, all of it but the model."""
    from openllama_cli.batch.ray import engine

    source, output = tmp_path / "in.txt", tmp_path / "out.jsonl"
    prompts = ["die" if index == 7 else f"text {index}" for index in range(30)]
    source.write_text("\n".join(prompts))
    # This process is connected already.
    monkeypatch.setattr("openllama_cli.batch.ray.cluster.connect", lambda options: contextlib.nullcontext(machines.nodes))
    monkeypatch.setattr(engine, "RayRunner", functools.partial(engine.RayRunner, worker=ObedientWorker))
    arguments = ("batch", str(source), "-o", str(output), "-m", str(tiny_model))
    result = olc(*arguments, "--engine", "ray", "--workers", "2", "--json-progress")
    assert result.code == 3, result.messages
    last = json.loads(result.text.splitlines()[-1])
    assert (last["rows"], last["total"], last["failed"], last["done"]) == (30, 30, 1, True)
    written = read(output)
    assert [row["prompt"] for row in written] == prompts
    assert [row["index"] for row in written if row.get("error")] == [7]
    assert written[7]["error"]["code"] == "worker_lost"
    assert "lost with 4 workers" in written[7]["error"]["message"]
    assert "its process ended" in written[7]["error"]["message"]
    assert result.messages.count("lost the worker") == 4


def test_workers_that_hang_or_do_not_get_on_are_replaced(machines: Machines, tmp_path: Path) -> None:
    todo = rows("a", f"stop once:{tmp_path / 'stopped'}", "b", f"stall once:{tmp_path / 'stalled'}", "c")
    kept, notices = run(machines, todo, plan=replace(ONE_CPU, workers=1), reply=2, token=3)
    assert sorted(kept.results) == list(range(5))
    assert not kept.failed
    assert any("no reply for 2 s" in notice for notice in notices)
    assert any("no token for 3 s" in notice for notice in notices)


def test_workers_that_find_no_place_are_an_error_that_says_what_there_is(machines: Machines) -> None:
    with pytest.raises(OlcError) as caught:
        run(machines, rows("a"), plan=replace(ONE_CPU, cpus=64), place=1)
    assert "no worker could be scheduled within 1 s" in caught.value.cause
    assert "each needs 64 CPU" in caught.value.cause
    assert "CPU free" in caught.value.cause
    assert "ray status" in caught.value.remedy


def test_a_worker_with_another_version_or_without_the_model_ends_the_run_at_once(machines: Machines, tmp_path: Path) -> None:
    with pytest.raises(OlcError, match=r"has olc 0\.0\.1"):
        run(machines, rows("a"), OldWorker)
    missing = replace(NO_MODEL, spec=ModelSpec(str(tmp_path / "not-here"), offline=True))
    with pytest.raises(OlcError, match=r"the worker on .*not-here does not exist") as caught:
        run(machines, rows("a"), RayWorker, missing)
    assert "every machine needs the model" in caught.value.remedy
