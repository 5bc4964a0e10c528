"""Ratios to several baselines, and when other work on the machine is worth a line."""

import os
import resource
import time
from types import SimpleNamespace

import psutil
import pytest

from openllama_cli.benchmark.disturbance import Disturbance, Watch
from openllama_cli.benchmark.job import Job
from openllama_cli.benchmark.report import Report
from openllama_cli.benchmark.runs import METRICS, Result


def result(name: str, engine: str, prompt_tokens: int, *speeds: float) -> Result:
    job = Job("folder", engine, "auto", "cpu", prompt_tokens, 8, 1)
    return Result(name, job, {metric: list(speeds) for metric in METRICS}, 10**9, "bfloat16")


def report(*results: Result, load: float | None = 0.1, cores: float = 0.0) -> Report:
    lengths = sorted({each.job.prompt_tokens for each in results})
    return Report("1b", lengths, 8, 0, 20.0, Disturbance(load, cores), results)


def test_each_baseline_is_compared_on_the_same_prompts() -> None:
    ours = [result(f"olc, {length} tokens", "loop", length, 10, 12) for length in (64, 512)]
    generate = [result(f"model.generate, {length} tokens", "transformers", length, 5, 3) for length in (64, 512)]
    theirs = [result(f"llama.cpp, {length} tokens", "llama.cpp", length, length, length) for length in (64, 512)]
    document = report(*ours, *generate, *theirs).document()
    assert document["prompt_tokens"] is None, "there are several"
    assert [each["prompt_tokens"] for each in document["results"]] == [64, 512] * 3
    first, second, *others = document["results"]
    assert second["ratios"]["decode_tokens_per_s"] == {"min": 2, "median": 3, "max": 4}
    assert first["ratios_to_llama_cpp"]["decode_tokens_per_s"]["max"] == 12 / 64
    assert second["ratios_to_llama_cpp"]["decode_tokens_per_s"]["max"] == 12 / 512
    assert {each["ratios"] for each in others} == {each["ratios_to_llama_cpp"] for each in others} == {None}
    assert first["share_of_bandwidth"] == 11 * 1e9 / 20e9


@pytest.mark.parametrize(
    ("load", "cores", "speeds", "said"),
    [
        (0.5, 0.2, (10.0, 12.5), None),
        (None, 0.0, (10.0,), None),
        (1.2, 0.0, (10.0, 10.0), "load average 1.2 at the start"),
        (0.1, 0.34, (10.0, 10.0), "0.3 of "),
        (None, 0.0, (10.0, 13.0), "up to 1.3 times between the runs of olc"),
    ],
)
def test_a_busy_machine_is_worth_a_line(load: float | None, cores: float, speeds: tuple[float, ...], said: str | None) -> None:
    found = report(result("olc", "loop", 64, *speeds), load=load, cores=cores)
    line = found.busy_line()
    assert (line is None) if said is None else (line is not None and said in line)
    document = found.document()
    assert document["was_busy"] == (said is not None)
    assert (document["load_average"], document["cores_taken_by_others"]) == (load, cores)
    assert document["run_spread"] == max(speeds) / min(speeds)


def test_only_others_disturb(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 8 s of two cores, 5 were worked: 1 by this process, 2.5 by its children, so 1.5 by others; waiting is no work."""
    spent = {"user": 10.0, "nice": 0.0, "system": 4.0, "idle": 30.0, "iowait": 1.0, "steal": 0.5, "guest": 3.0}
    own = {resource.RUSAGE_SELF: (1.0, 1.0), resource.RUSAGE_CHILDREN: (7.0, 0.5)}
    now = [100.0]
    monkeypatch.setattr(os, "getloadavg", lambda: (0.75, 3.0, 4.0))
    monkeypatch.setattr(psutil, "cpu_times", lambda: SimpleNamespace(_asdict=lambda: spent))
    monkeypatch.setattr(resource, "getrusage", own.__getitem__)
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    watch = Watch()
    spent |= {"user": 13.0, "system": 5.5, "idle": 32.0, "iowait": 2.0, "steal": 1.0, "guest": 5.0}
    own |= {resource.RUSAGE_SELF: (1.5, 1.5), resource.RUSAGE_CHILDREN: (9.5, 0.5)}
    now[0] += 4.0
    assert watch.end() == Disturbance(0.75, 1.5 / 4.0)
