"""Jobs in turn, paired ratios, and what a failed measurement says; the measurements themselves are made up here."""

import time
from typing import Any

import psutil
import pytest

from openllama_cli.benchmark import runs
from openllama_cli.benchmark.job import Job, prompt_lengths, prompts
from openllama_cli.benchmark.runs import METRICS, Spread, run
from openllama_cli.errors import OlcError


def job(engine: str = "loop", rows: int = 1, quantize: str | None = None) -> Job:
    return Job("folder", engine, "auto", "cpu", 64, 8, rows, quantize)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What was asked of workers; each answer is ten times as fast as the one before."""
    asked: list[dict[str, Any]] = []

    def measure(request: dict[str, Any], name: str) -> dict[str, Any]:
        asked.append(request)
        if asked[-1].get("only_load"):
            return {"loaded": "bfloat16", "process_s": 1.0}
        speed = 10.0 ** len([entry for entry in asked if not entry.get("only_load")])
        return {**dict.fromkeys(METRICS, speed), "weight_bytes_per_token": 7, "precision": "bfloat16"}

    monkeypatch.setattr(runs, "_measure", measure)
    return asked


def test_jobs_run_in_turn_and_ratios_are_paired(measured: list[dict[str, Any]]) -> None:
    begun: list[tuple[str, int]] = []
    ours, theirs = run({"a": job(), "b": job("transformers")}, 3, begin=lambda name, done: begun.append((name, done)))
    assert [entry["engine"] for entry in measured] == ["loop", "transformers"] * 3
    assert begun == [("a", 0), ("b", 1), ("a", 2), ("b", 3), ("a", 4), ("b", 5)]
    assert ours.spread("load_s") == Spread(1e1, 1e3, 1e5)
    ratio = theirs.ratio(ours, "decode_tokens_per_s")
    assert ratio is not None
    assert [ratio.least, ratio.middle, ratio.most] == pytest.approx([10, 10, 10])


def test_quantized_weights_are_made_before_anything_is_measured(measured: list[dict[str, Any]]) -> None:
    first, _ = run({"a": job(quantize="int8"), "b": job("transformers")}, 1, begin=lambda name, done: None)
    asked = [(entry["quantize"], entry.get("only_load", False)) for entry in measured]
    assert asked == [("int8", True), ("int8", False), (None, False)]
    first.metrics["decode_tokens_per_s"] = [None, None]
    assert first.spread("decode_tokens_per_s") is None, "what was not measured has no ratio either"
    assert first.ratio(first, "decode_tokens_per_s") is None


@pytest.mark.parametrize(
    ("script", "cause", "remedy"),
    [
        ("echo one >&2; echo 'RuntimeError: two' >&2; exit 3", "RuntimeError: two", "--debug"),
        ("""echo '{"error": ["no room", "make some"]}'""", "no room", "make some"),
    ],
)
def test_a_worker_that_fails_is_named(monkeypatch: pytest.MonkeyPatch, script: str, cause: str, remedy: str) -> None:
    monkeypatch.setattr(runs, "_WORKER", ("/bin/sh", "-c", script))
    with pytest.raises(OlcError, match=f"measuring olc failed: {cause}") as caught:
        run({"olc": job()}, 1, begin=lambda name, done: None)
    assert remedy in caught.value.remedy


def test_busy_programs_run_meanwhile_and_end(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def measure(request: dict[str, Any], name: str) -> dict[str, Any]:
        deadline = time.monotonic() + 20
        while len(children()) < 2 and time.monotonic() < deadline:
            time.sleep(0.02)
        seen.extend(children())
        return {**dict.fromkeys(METRICS, 1.0), "weight_bytes_per_token": 7, "precision": "bfloat16"}

    def children() -> list[int]:
        return [child.pid for child in psutil.Process().children() if any("getppid" in word for word in child.cmdline())]

    monkeypatch.setattr(runs, "_measure", measure)
    run({"olc": job()}, 1, busy=2, begin=lambda name, done: None)
    assert len(seen) == 2
    assert not children()


def test_several_rows_have_ragged_prompts() -> None:
    assert prompt_lengths(job()) == [64]
    assert prompt_lengths(job(rows=16)) == [32 + 4 * row for row in range(16)]
    assert [len(prompt) for prompt in prompts(job(rows=3), 100)] == prompt_lengths(job(rows=3))
    assert prompts(job(rows=3), 100) == prompts(job("transformers", rows=3), 100)
