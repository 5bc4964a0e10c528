"""What docs/reproducibility.md promises, for each type of weights, by tiny models."""

import json
from typing import Any

import pytest

from openllama_cli.native import library
from tests.conftest import Olc

PRECISIONS = [("--dtype", "float16"), ("--dtype", "bfloat16"), ("--quantize", "int8"), ("--quantize", "int4")]
RESULTS = [
    ("complete", "The sky is", "-n", "12", "--echo", "--logprobs", "0"),
    ("complete", "The sky is", "-n", "12", "--num-samples", "3", "-s", "4", "--logprobs", "0"),
    ("complete", "The sky is", "--choices", "blue,green,red", "--calibrate"),
    ("score", "the quick brown fox jumps over the lazy dog"),
]


@pytest.mark.parametrize("precision", PRECISIONS, ids=lambda precision: precision[1])
def test_the_same_threads_and_rows_make_the_same(olc: Olc, made: Any, model: str, precision: tuple[str, ...]) -> None:
    for arguments in RESULTS:
        path = made(*arguments, how=(*precision, "--device", "cpu", "--no-server"))
        record = json.loads(path.read_text())["olc"]["record"]
        assert precision[1] in (record["dtype"], record["quantization"])
        run = olc("replay", str(path), "-m", model)
        assert (run.code, run.text[:7], run.text.count("\n")) == (0, "equal: ", 1), run.text
        assert run.text.count("within 0") == run.text.count("within"), run.text


def test_kernels_have_no_part_in_float32(olc: Olc, made: Any, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the bit, by the same operators of torch."""
    paths = [made(*arguments, name=f"{place}.json") for place, arguments in enumerate(RESULTS)]
    monkeypatch.setattr(library, "library", lambda: None)
    for path, arguments in zip(paths, RESULTS, strict=True):
        run = olc("replay", str(path), "-m", model)
        assert (run.code, run.text[:7]) == (0, "equal: "), run.text
        assert run.text.count("within 0") == run.text.count("within"), run.text
        without = made(*arguments)
        records = [json.loads(one.read_text())["olc"]["record"] for one in (path, without)]
        assert records[1]["machine"]["tier"] is None
        for record in records:
            del record["machine"]["tier"]
        assert records[0] == records[1]
