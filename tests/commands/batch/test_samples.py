"""Several completions a row: `--num-samples`, `n` and `best_of`, in olc's lines and OpenAI's."""

import json
from pathlib import Path
from typing import Any

from tests.conftest import Olc
from tests.support.batches import read

OPTIONS = ("--dtype", "float32", "-n", "8")


def batch(olc: Olc, model: str, folder: Path, rows: list[dict[str, Any]], *options: str) -> list[dict[str, Any]]:
    source, output = folder / "rows.jsonl", folder / "out.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = olc("batch", str(source), "-o", str(output), "-m", model, *OPTIONS, "--restart", *options)
    assert result.code == 0, result.messages
    return read(output)


def test_samples_of_rows(olc: Olc, model: str, tmp_path: Path) -> None:
    rows = [{"prompt": "the quick"}, {"prompt": "the quick", "n": 2, "best_of": 4, "seed": 7}, {"prompt": "a", "n": 1}]
    made = batch(olc, model, tmp_path, rows, "--num-samples", "3", "--seed", "5")
    assert [len(row.get("samples", ())) for row in made] == [3, 2, 0]
    for row in made[:2]:
        assert row["text"] == row["samples"][0]["text"]
        assert len({sample["text"] for sample in row["samples"]}) == len(row["samples"])
        assert all(sample["finish_reason"] in ("stop", "length") for sample in row["samples"])
    alone = batch(olc, model, tmp_path, rows[:1], "--seed", "5")
    assert alone[0]["text"] == made[0]["text"], "the first sample is the text without the others"


def test_a_seed_of_its_own_gives_what_complete_gives(olc: Olc, model: str, tmp_path: Path) -> None:
    (row,) = batch(olc, model, tmp_path, [{"prompt": "the quick", "n": 3, "seed": 7, "temperature": 0.9}])
    sampled = ("--num-samples", "3", "--seed", "7", "--temperature", "0.9")
    document = json.loads(olc("complete", "the quick", "--json", "-m", model, *OPTIONS, *sampled).text)
    assert [sample["text"] for sample in row["samples"]] == [choice["text"] for choice in document["choices"]]


def test_openai_lines_have_choices(olc: Olc, model: str, tmp_path: Path) -> None:
    body = {"prompt": "the quick", "n": 2, "best_of": 3, "logprobs": 1, "frequency_penalty": 0.5, "logit_bias": {"5": -100}}
    line = {"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": body}
    (row,) = batch(olc, model, tmp_path, [line])
    choices = row["response"]["body"]["choices"]
    assert [choice["index"] for choice in choices] == [0, 1]
    means = [sum(values) / len(values) for values in (choice["logprobs"]["token_logprobs"] for choice in choices)]
    assert means == sorted(means, reverse=True)


def test_identical_samples_are_refused(olc: Olc, model: str, tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("a\n")
    result = olc("batch", str(tmp_path / "in.txt"), "-m", model, "--num-samples", "2", "--temperature", "0")
    assert result.code == 2
    assert "identical texts" in result.messages
