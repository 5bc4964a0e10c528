"""What --engine ray takes, how a cluster is shared out, and which rows are retried with whom; all of it without Ray."""

import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from openllama_cli.batch.input.rows import Row
from openllama_cli.batch.ray import cluster
from openllama_cli.batch.ray.backlog import Backlog
from openllama_cli.batch.ray.options import Node, RayOptions, host_and_port, parse_engine, plan_workers, worker_bytes
from openllama_cli.batch.ray.worker import LoadFailure, RayWorker, Ready, Setup, worker_setup
from openllama_cli.batch.runner import open_runner
from openllama_cli.errors import OlcError, UsageError
from openllama_cli.generation.decode.config import SamplingConfig
from openllama_cli.models.find import find
from openllama_cli.models.fingerprint import opened_fingerprint
from openllama_cli.models.loading.load import load
from openllama_cli.models.opened import OpenedModel
from openllama_cli.models.spec import ModelSpec
from tests.support.batches import Kept

GIB = 2**30


def rows(count: int) -> list[Row]:
    return [Row(index, f"row-{index}") for index in range(count)]


def indexes(rows: list[Row]) -> list[int]:
    return [row.index for row in rows]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("spark", None, None), "--engine spark"),
        (("local", "auto", None), "--ray-address auto"),
        (("local", None, 2), "--workers 2"),
        (("ray", None, 0), "--workers 0"),
        (("ray", "10.0.0.5", None), "--ray-address 10.0.0.5"),
        (("ray", "host:99999", None), "99999"),
        (("ray", "ray://host:10001", None), "ray://host:10001"),
    ],
)
def test_options_that_cannot_be_are_refused_by_name(arguments: tuple[str, str | None, int | None], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        parse_engine(*arguments)


def test_options_of_the_ray_engine() -> None:
    assert parse_engine("local", None, None) is None
    assert parse_engine("ray", "auto", 3) == RayOptions("auto", 3)
    assert host_and_port("[::1]:6379") == ("::1", 6379)
    assert host_and_port("head.example.org:6379") == ("head.example.org", 6379)


def test_without_ray_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError) as caught:
        parse_engine("ray", None, None)
    assert "not installed" in caught.value.cause
    assert 'pip install "openllama-cli[ray]"' in caught.value.remedy


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ("nobody", "no response from {}: Connection refused"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "the service at {} is not Ray"),
        (b"", "the service at {} is not Ray"),
        (None, "no response from {}: timed out"),
    ],
    ids=["nobody listens", "a web server", "hangs up", "silent"],
)
def test_an_address_without_ray_is_told_at_once(answer: bytes | str | None, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "_PROBE_SECONDS", 0.5)
    with socket.socket() as server, ThreadPoolExecutor(1) as other:
        server.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{server.getsockname()[1]}"

        def serve() -> None:
            with server.accept()[0] as connection:
                connection.recv(1000)
                if isinstance(answer, bytes):
                    connection.sendall(answer)
                else:
                    connection.recv(1000)

        if answer != "nobody":
            server.listen()
            other.submit(serve)
        with pytest.raises(OlcError) as caught:
            cluster._reachable(address)
    assert caught.value.cause == told.format(address)
    assert caught.value.code == "ray_address"


def test_a_worker_with_other_weights_than_the_driver_does_not_load(tmp_model: Path) -> None:
    weights = next(tmp_model.glob("*.safetensors"))
    fingerprint = {"files": {weights.name: {"bytes": 1, "sha256": "0"}}, "revision": None}
    failed = RayWorker().load(Setup(ModelSpec(str(tmp_model), offline=True), "none", fingerprint, "", None, 1))
    assert isinstance(failed, LoadFailure)
    assert failed.code == "model_mismatch"
    assert f"the model's file {weights.name} changed" in failed.cause


def test_a_worker_completes_rows_with_the_weights_of_the_file(tiny_model: Path) -> None:
    """The model as it is: that of tests/commands/batch/test_ray.py is quantized, since it loads without Transformers."""
    spec = ModelSpec(str(tiny_model), dtype="float32", device="cpu", offline=True)
    opened = OpenedModel.of(find(spec))
    worker, local = RayWorker(), Kept()
    ready = worker.load(worker_setup(opened, spec, opened_fingerprint(opened), batch_size=2, positions=256))
    assert ready == Ready(2, "float32")
    work = [Row(index, f"row-{index}", "fox " * index, sampling=SamplingConfig(max_tokens=5)) for index in range(5)]
    reply = worker.exchange(work)
    results = list(reply.results)
    while not reply.idle:
        reply = worker.exchange([])
        results += reply.results
    for _ in open_runner(load(opened, spec), model="tiny", keep=local.append, batch_size=2, positions=256).run(work):
        pass
    assert {result.index: result.line() for result in results} == local.lines
    assert local.failed == {}


def test_a_cluster_gets_as_many_workers_as_fit_into_each_machines_memory() -> None:
    nodes = [Node(8, 0, 20 * GIB), Node(4, 0, 100 * GIB), Node(16, 0, 5 * GIB)]
    plan = plan_workers(nodes, None, 6 * GIB, gpu=True)
    assert (plan.workers, plan.cpus, plan.gpus, plan.memory, plan.per_node) == (3 + 4 + 0, 1, 0, 6 * GIB, 4)
    alone = plan_workers([Node(8, 0, 4 * GIB)], None, 6 * GIB, gpu=True)
    assert (alone.workers, alone.cpus, alone.memory) == (1, 8, 0), "one worker may try what an estimate says does not fit"


def test_a_gpu_gets_a_worker_unless_the_cpu_is_asked_for() -> None:
    nodes = [Node(8, 2, 64 * GIB), Node(8, 1, 64 * GIB), Node(8, 0, 64 * GIB)]
    plan = plan_workers(nodes, None, 6 * GIB, gpu=True)
    assert (plan.workers, plan.cpus, plan.gpus, plan.memory) == (3, 1, 1, 0)
    assert plan_workers(nodes, None, 6 * GIB, gpu=False).gpus == 0


def test_named_workers_share_the_threads() -> None:
    assert plan_workers([Node(8, 0, GIB), Node(8, 0, GIB)], 4, 6 * GIB, gpu=True).cpus == 4
    assert plan_workers([Node(8, 0, GIB), Node(2, 0, GIB)], 3, 6 * GIB, gpu=True).cpus == 2
    assert plan_workers([Node(2, 0, GIB)], 5, 6 * GIB, gpu=True).cpus == 1
    assert worker_bytes(10**9, "auto") > 4.4e9 > worker_bytes(10**9, "bfloat16") > 2.2e9


def test_fresh_rows_fill_a_worker_up_and_are_read_only_then() -> None:
    read = []
    backlog = Backlog(row for row in rows(10) if read.append(row.index) is None)  # type: ignore[func-returns-value]
    first = backlog.pop([], 2, 4)
    assert indexes(first) == read == [0, 1, 2, 3]
    assert backlog.pop(first, 2, 4) == []
    assert indexes(backlog.pop(first[1:], 2, 4)) == [4]
    assert not backlog.empty
    assert indexes(backlog.pop([], 2, 99)) == [5, 6, 7, 8, 9]
    assert backlog.empty


def test_a_row_that_kills_its_workers_is_given_up_after_three_retries_and_takes_no_other_with_it() -> None:
    poison, tried, done, given_up, lost_workers = 5, [0] * 20, set(), [], 0
    backlog = Backlog(rows(20))
    while not backlog.empty:
        popped = backlog.pop([], 4, 8)
        for row in popped:
            tried[row.index] += 1
        if poison in indexes(popped):
            lost_workers += 1
            given_up += backlog.lose(popped)
        else:
            done |= set(indexes(popped))
    assert indexes(given_up) == [poison]
    assert done == set(range(20)) - {poison}
    assert tried[poison] == lost_workers == 4
    assert max(tried[:poison] + tried[poison + 1 :]) <= 3


def test_rows_of_a_lost_worker_are_not_mixed_with_fresh_ones() -> None:
    backlog = Backlog(rows(20))
    mine, others = backlog.pop([], 4, 8), backlog.pop([], 4, 8)
    assert backlog.lose(mine) == []
    assert indexes(backlog.pop(others[:2], 4, 8)) == [16, 17, 18, 19], "a busy worker goes on with fresh rows"
    again = backlog.pop([], 4, 8)
    assert indexes(again) == [0, 1, 2, 3], "a batch, no more"
    assert backlog.pop(again[:1], 4, 8) == []
    backlog.lose(again)
    assert [indexes(backlog.pop([], 4, 8)) for _ in range(4)] == [[0], [1], [2], [3]], "after a second loss each is alone"
    assert indexes(backlog.pop([], 4, 8)) == [4, 5, 6, 7]
