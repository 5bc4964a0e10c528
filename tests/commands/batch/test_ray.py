"""`olc batch --engine ray` as people run it: real processes, a cluster of their own, kills, and the local engine's bytes."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import psutil
import pytest

from tests.conftest import Olc, olc_command
from tests.support.batches import finished, read, wait_for

# Weights that are quantized and saved load in half the time: without Transformers.
OPTIONS = ("-n", "24", "--quantize", "int8", "--device", "cpu", "--batch-size", "4")

LOOPBACK = ("127.0.0.1", "::ffff:127.0.0.1", "::1")


def processes_of(run: subprocess.Popen[bytes]) -> dict[psutil.Process, str]:
    """All that it started, and what they call themselves."""
    found = {}
    for process in psutil.Process(run.pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            found[process] = " ".join(process.cmdline()[:1])
    return found


def start(*arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        olc_command(*arguments),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,  # what a terminal does: signals reach all of Ray's processes too
    )


def left(processes: dict[psutil.Process, str]) -> list[str]:
    """Which of them are still there, after a while."""
    return [processes[process] for process in psutil.wait_procs(processes, timeout=15)[1]]


def reached_from_outside(processes: Iterable[psutil.Process]) -> list[str]:
    """Where they listen, other than on this machine's loopback; and Ray's dashboard, which is not to run."""
    found = []
    for process in processes:
        with contextlib.suppress(psutil.Error):
            listens = [each.laddr for each in process.net_connections("inet") if each.status == psutil.CONN_LISTEN]
            found += [f"{process.name()} at {ip}:{port}" for ip, port in listens if ip not in LOOPBACK]
            found += [f"{process.name()}: dashboard" for _, port in listens if port == 8265]
    return found


@pytest.mark.slow
def test_kills_of_workers_and_drivers_leave_the_bytes_of_the_local_engine(
    olc: Olc, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))  # The quantized copy would show in other tests' lists.
    source, local, output = tmp_path / "rows.jsonl", tmp_path / "local.jsonl", tmp_path / "ray.jsonl"
    lines = []
    for index in range(120):
        row = {"prompt": "the quick brown fox " * (index % 4), "custom_id": f"id-{index}"}
        if index % 3 == 0:
            row |= {"temperature": 1.0, "seed": index % 7}
        elif index % 5 != 4 and index % 4 == 1:
            row |= {"choices": ["jumps", "jumps over", "sits"]}
        body = {"custom_id": f"id-{index}", "method": "POST", "url": "/v1/completions", "body": {**row, "logprobs": 2}}
        lines.append("{not json" if index % 17 == 5 else json.dumps(body if index % 5 == 4 else row))
    source.write_text("\n".join(lines))
    common = ("batch", str(source), *OPTIONS, "-m", str(tiny_model), "--calibrate-with", "N/A")
    on_ray = (*common, "-o", str(output), "--engine", "ray", "--workers", "2")
    # Other batch sizes change no bytes either, and are quicker.
    assert olc(*common, "-o", str(local), "--batch-size", "40").code == 3

    # An actor is killed, then Ctrl-C: the rows in flight may finish, and nothing of Ray is left.
    run = start(*on_ray)
    wait_for(lambda: finished(output) > 10, run)
    assert reached_from_outside(processes_of(run)) == []
    next(process for process, name in processes_of(run).items() if name.startswith("ray::RayWorker")).kill()
    done = finished(output)
    wait_for(lambda: finished(output) > done + 10, run)
    processes = processes_of(run)
    os.killpg(run.pid, signal.SIGINT)
    out, err = run.communicate(timeout=60)
    assert run.returncode == 130, err.decode()
    assert out == b""
    assert b"(its process ended)" in err
    assert b"to resume:" in err
    assert left(processes) == []

    # Resumed, and the driver is killed. Another number of workers changes no bytes.
    run = start(*on_ray, "--workers", "1")
    done = finished(output)
    assert 20 < done < 120
    wait_for(lambda: finished(output) > done + 10, run)
    processes = processes_of(run)
    run.kill()
    out, err = run.communicate(timeout=60)
    assert b"olc: resuming:" in err
    # Ray's own helpers look for the driver for a minute; they hold no model.
    helpers = {"ray::DashboardAgent", "ray::RuntimeEnvAgent"}
    assert left({process: name for process, name in processes.items() if name not in helpers}) == []
    assert not output.exists()

    # The local engine goes on where Ray's stopped.
    result = olc(*common, "-o", str(output), "--batch-size", "16")
    assert result.code == 3
    assert "olc: resuming:" in result.messages
    assert output.read_bytes() == local.read_bytes()
    assert sum(row["error"] is not None for row in read(output)) == 7
    runs = json.loads(output.with_name(output.name + ".record.json").read_text())["runs"]
    assert {run["by"] for run in runs} == {"ray", "local"}
    assert sum(run["rows"] for run in runs) == len(read(output))
    assert all(place["quantization"] == "int8" for run in runs for place in run["places"])


def test_a_driver_without_torch_tells_of_an_address_without_ray(tiny_model: Path, tmp_path: Path) -> None:
    source = tmp_path / "in.txt"
    source.write_text("one\n")
    code = (
        "import sys, openllama_cli.commands.batch.command; assert 'ray' not in sys.modules\n"
        "from openllama_cli.cli import main\n"
        "try: main()\n"
        "finally:\n"
        "    import openllama_cli.batch.ray.engine\n"
        "    assert not {'torch', 'transformers'} & sys.modules.keys()"
    )
    arguments = ("batch", str(source), "-m", str(tiny_model), "--engine", "ray", "--ray-address", "127.0.0.1:9")
    # A process of its own: Ray reads its environment once, when it is imported.
    result = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=60)
    assert result.returncode == 1
    assert "no response from 127.0.0.1:9" in result.stderr
    assert len(result.stderr.splitlines()) == 2
