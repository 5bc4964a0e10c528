"""Workers for tests of the Ray engine: real actors in real processes, without a model, that do what a row's prompt says."""

import os
import signal
import time
from dataclasses import replace
from pathlib import Path

from openllama_cli.batch.input.rows import Row
from openllama_cli.batch.output.results import Result
from openllama_cli.batch.ray.worker import LoadFailure, RayWorker, Ready, Reply, Setup, WorkerInfo


class ObedientWorker(RayWorker):
    """Answers at once. A row "die" kills the process. Unless there is FILE, "stop once:FILE" stops the process, and after
    "stall once:FILE" it replies, but never gets on.
    """

    stalled = False

    def load(self, setup: Setup) -> Ready | LoadFailure:
        return Ready(4, "float32")

    def exchange(self, rows: list[Row], last: bool = False) -> Reply:
        results: list[Result] = []
        if self.stalled:
            time.sleep(0.1)
            return Reply([], 0, 0, idle=False)
        for row in rows:
            word, _, file = (row.prompt or "").partition(":")
            if word == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            if word == "stop once" and not Path(file).exists():
                Path(file).touch()
                os.kill(os.getpid(), signal.SIGSTOP)
            if word == "stall once" and not Path(file).exists():
                Path(file).touch()
                self.stalled = True
            if word == "sleep":
                time.sleep(0.05)
            results.append(Result(row.index, None, {"index": row.index, "prompt": row.prompt}))
        if self.stalled:
            return Reply([], 0, 0, idle=False)
        return Reply(results, len(results), len(results), idle=True)


class OldWorker(ObedientWorker):
    """Of another version."""

    def info(self) -> WorkerInfo:
        return replace(super().info(), version="0.0.1")
