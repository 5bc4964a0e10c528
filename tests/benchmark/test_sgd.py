"""The benchmark compares two versions that do the same; how fast they are is not tested."""

import json
import subprocess
import sys


def test_it_prints_one_line_of_json() -> None:
    command = [sys.executable, "-m", "openllama_cli.benchmark.sgd", "--epochs", "1"]
    line, rest = subprocess.check_output(command, text=True).split("\n")
    assert not rest
    document = json.loads(line)
    assert (document["sizes"], document["mini_batch_size"]) == ([64, 30, 10], 10)
    assert document["times_faster"] > 0
    assert document["times_faster_learning"] > 0
