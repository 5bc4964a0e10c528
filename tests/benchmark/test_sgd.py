"""The benchmark compares two versions that do the same; how fast they are is not tested."""

import json
import os
import subprocess
import sys


def test_it_prints_one_line_of_json() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "openllama_cli.benchmark.sgd", "--epochs", "1"],
        capture_output=True,
        text=True,
        env={**os.environ},
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("\n") == 1
    document = json.loads(run.stdout)
    assert (document["sizes"], document["mini_batch_size"]) == ([64, 30, 10], 10)
    assert document["times_faster"] > 0
    assert document["times_faster_learning"] > 0
