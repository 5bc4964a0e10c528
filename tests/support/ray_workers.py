"""Workers for tests of the Ray engine: real actors in real processes, without a model, that do what a row's prompt says."""

import json
import os
import signal
import time
from pathlib import Path

from openllama_cli.batch.input.rows import Row
from openllama_cli.batch.ray.worker import Answer, Greeting, RayWorker, Ready, Refusal, Setup


class ObedientWorker(RayWorker):
    """Answers at once. A row "die" kills the process; "stop once:FILE" stops it unless there is FILE."""

    def load(self, setup: Setup) -> Ready | Refusal:
        return Ready(4, "float32")

    def exchange(self, rows: list[Row], last: bool = False) -> Answer:
        results: list[tuple[int, str | None, bytes]] = []
        for row in rows:
            word, _, file = (row.prompt or "").partition(":")
            if word == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            if word == "stop once" and not Path(file).exists():
                Path(file).touch()
                os.kill(os.getpid(), signal.SIGSTOP)
            if word == "sleep":
                time.sleep(0.05)
            results.append((row.index, None, json.dumps({"index": row.index, "prompt": row.prompt}).encode()))
        return Answer(results, len(results), len(results), idle=True)


class StuckWorker(ObedientWorker):
    """Answers, but never gets on."""

    def exchange(self, rows: list[Row], last: bool = False) -> Answer:
        time.sleep(0.1)
        return Answer([], 0, 0, idle=False)


class OldWorker(ObedientWorker):
    """Of another version."""

    def hello(self) -> Greeting:
        greeting = super().hello()
        return Greeting("0.0.1", greeting.torch, greeting.host, greeting.node, greeting.pid)
