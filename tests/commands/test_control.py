"""What ends a text, what is penalized and what never appears: the options on the command line, with the demo model."""

import json
from pathlib import Path

import pytest

from openllama_cli.errors import UsageError
from openllama_cli.generation.decode.repetition import LEAST_TOKENS
from tests.conftest import Olc
from tests.support.batches import read
from tests.support.models.tiny_models import write_tiny_llama

PROMPT = "The largest animal is"
WHALE = " the blue whale."


def complete(olc: Olc, *options: str) -> str:
    result = olc("complete", PROMPT, "-m", "demo", "--dtype", "float32", *options)
    assert result.code == 0, result.messages
    return result.text[:-1]


def test_a_banned_text_never_appears(olc: Olc) -> None:
    assert complete(olc) == WHALE
    assert "whale" not in complete(olc, "--ban", "whale")
    assert "blue" not in complete(olc, "--ban", "blue", "--ban", " animal", "--temperature", "1.5", "--seed", "3")


def test_biases_by_text_and_by_id(olc: Olc) -> None:
    ids = olc("tokenize", "x blue", "--no-bos", "-m", "demo").text.split()
    assert "blue" not in complete(olc, "--logit-bias", " blue=-100", "-n", "3")
    assert complete(olc, "--logit-bias", " blue=-100") == complete(olc, "--logit-bias", f"{ids[-1]}=-100")


def test_where_a_text_ends(olc: Olc) -> None:
    document = json.loads(complete(olc, "--json", "--ignore-eos", "--stop-at", "sentence"))
    (choice,) = document["choices"]
    assert (choice["text"], choice["finish_reason"]) == (WHALE, "stop")
    assert choice["olc"]["finish_reason"] == "sentence"
    assert "sentence" in choice["olc"]["note"]
    assert "olc" not in json.loads(complete(olc, "--json"))["choices"][0]
    assert len(complete(olc, "--min-tokens", "12")) > len(WHALE)


def test_a_loop_ends_and_says_so(olc: Olc, tmp_path: Path) -> None:
    model = write_tiny_llama(tmp_path / "model", context=LEAST_TOKENS + 64)
    looping = ("-m", str(model), "--ignore-eos", "--logit-bias", " the=100", "-n", str(LEAST_TOKENS + 4))
    document = json.loads(complete(olc, *looping, "--json"))
    (choice,) = document["choices"]
    assert choice["olc"]["finish_reason"] == "repetition"
    assert document["usage"]["completion_tokens"] == LEAST_TOKENS
    text = complete(olc, *looping, "--no-loop-guard")
    assert text.startswith(choice["text"])
    assert len(text) > len(choice["text"])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--logit-bias", "5"], "--logit-bias '5' is not TOKEN=BIAS"),
        (["--logit-bias", "=5"], "--logit-bias '=5' is not TOKEN=BIAS"),
        (["--logit-bias", "blue whale=5"], "--logit-bias 'blue whale' is "),
        (["--stop-token", "99999"], "--stop-token has token id 99999"),
        (["--min-tokens", "100"], "--min-tokens 100 is out of range"),
        (["--stop-at", "word"], "--stop-at 'word' is not known"),
        (["--ban", ""], "--ban is empty"),
        (["--engine", "transformers", "--ban", "x"], "--ban cannot be used with --engine transformers"),
    ],
)
def test_wrong_usage_is_told_before_a_model_is_loaded(options: list[str], said: str, olc: Olc) -> None:
    result = olc("complete", PROMPT, "-m", "demo", *options)
    assert result.code == UsageError.exit_code
    assert result.messages.startswith(f"error: {said}")


def test_a_batch_says_what_ended_otherwise_than_it_should(olc: Olc, tmp_path: Path) -> None:
    looping = {"prompt": PROMPT, "ignore_eos": True, "logit_bias": {" the": 100}, "max_tokens": 300}
    cut = {"prompt": PROMPT, "regex": " (a ){9}", "max_tokens": 2}
    lines = [looping, cut, {"prompt": PROMPT}, {"prompt": PROMPT, "logit_bias": {"blue whale": 1}}]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, lines)))
    result = olc("batch", str(tmp_path / "rows.jsonl"), "-o", str(tmp_path / "out.jsonl"), "-m", "demo", "--dtype", "float32")
    said = [line for line in result.messages.splitlines() if line.startswith("hint: ")]
    assert [line.partition(" row ")[0] for line in said] == ["hint: 1", "hint: 1"]
    assert "--repetition-penalty 1.1 or --dry-multiplier 0.8" in said[0]
    assert "-n gives it more" in said[1]
    error = read(tmp_path / "out.jsonl")[3]["error"]
    assert error["code"] == "not_one_token"
    assert error["message"].startswith("logit_bias 'blue whale' is ")
    assert error["message"].endswith("or forbid the text with ban")
