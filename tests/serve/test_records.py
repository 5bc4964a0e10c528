"""Records of served answers: given when they are asked for, as the schema says, and made again by `olc replay`."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from openllama_cli.openai_api.request import RECORD
from tests.conftest import Olc
from tests.support.schemas import valid
from tests.support.serve.servers import Served, events

PROMPT = "the quick brown fox"
HEADER = {RECORD: "1"}
BODIES: dict[str, dict[str, Any]] = {
    "greedy": {"prompt": PROMPT, "temperature": 0, "max_tokens": 6},
    "sampled": {"prompt": PROMPT, "max_tokens": 6, "n": 3, "seed": 4, "top_p": 0.9},
    "several prompts with seeds of their own": {"prompt": [PROMPT, PROMPT, "two"], "max_tokens": 4, "n": 2},
    "the best of several": {"prompt": [PROMPT, "two"], "max_tokens": 5, "n": 2, "best_of": 4, "temperature": 2},
    "ids": {"prompt": [[1, 40, 41], [1, 42]], "max_tokens": 3, "logprobs": 2},
    "echo": {"prompt": [PROMPT, "two"], "max_tokens": 2, "echo": True, "logprobs": 0, "temperature": 0},
    "as a row of a batch": {"prompt": PROMPT, "max_tokens": 4, "seed": 5, "n": 2, "olc": {"draws_as": 7}},
    "as olc generate": {"prompt": ["one", "two"], "max_tokens": 4, "seed": 5, "olc": {"draws_by_choice": True, "tokens": True}},
    "a form": {"prompt": PROMPT, "regex": " [ab]{3}", "max_tokens": 9},
    "penalties, bans and healing": {
        **{"prompt": PROMPT, "heal": True, "ban": ["e"], "logit_bias": {"40": 1.5}, "frequency_penalty": 0.5},
        **{"temperature": 0, "dry_multiplier": 0.8, "stop": ["q"], "min_tokens": 1},
    },
    "choices": {"prompt": [PROMPT, "two"], "choices": ["jumps", "sits"], "calibrate_with": "N/A"},
    "nothing but a score": {"prompt": [PROMPT, "two"], "max_tokens": 0, "echo": True, "logprobs": 1},
}


def replayed(olc: Olc, document: Any, model: Path, tmp_path: Path) -> str:
    """What `olc replay` says of an answer."""
    path = tmp_path / "answer.json"
    path.write_text(json.dumps(document))
    run = olc("replay", str(path), "-m", str(model))
    assert (run.code, run.text[:7], run.text.count("\n")) == (0, "equal: ", 1), run.text + run.messages
    return run.text


def asked(served: Served, body: dict[str, Any]) -> Any:
    answer = served.client.post("/v1/completions", json=body, headers=HEADER)
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.mark.parametrize("name", BODIES)
def test_an_answer_is_made_again_from_its_record(served: Served, olc: Olc, tiny_model: Path, tmp_path: Path, name: str) -> None:
    document = asked(served, BODIES[name])
    valid(document, "complete")
    record = document["olc"]["record"]
    assert (record["command"], record["model"]["name"]) == ("serve", tiny_model.name)
    assert str(tiny_model.parent) not in json.dumps(record)
    said = replayed(olc, document, tiny_model, tmp_path)
    rows = len(record["completions"])
    assert said.startswith(f"equal: {rows} completion" if rows else "equal: 2 answers from 2 choices")


def test_the_best_of_several_are_told(served: Served, olc: Olc, tiny_model: Path, tmp_path: Path) -> None:
    document = asked(served, BODIES["the best of several"])
    rows = document["olc"]["record"]["completions"]
    kept = sorted((row["choice"], row["ids"]) for row in rows if row["choice"] is not None)
    shown = [served.model.tokenizer.decode_continuation([], ids).strip() for _, ids in kept]
    assert [place for place, _ in kept] == [0, 1, 2, 3]
    assert len(rows) == 8
    assert [choice["text"].strip() for choice in document["choices"]] == shown
    places = [row["choice"] for row in rows[:4]]
    first, other = places.index(0), places.index(None)
    rows[first]["choice"], rows[other]["choice"] = None, 0
    path = tmp_path / "other.json"
    path.write_text(json.dumps(document))
    run = olc("replay", str(path), "-m", str(tiny_model))
    assert (run.code, run.text.splitlines()[0]) == (1, "different: the best of 8 completions are others")


@pytest.mark.parametrize("usage", [False, True])
def test_the_last_chunk_of_a_stream_has_it(served: Served, olc: Olc, tiny_model: Path, tmp_path: Path, *, usage: bool) -> None:
    body = {"prompt": PROMPT, "max_tokens": 5, "seed": 3, "n": 2, "stream": True}
    body |= {"stream_options": {"include_usage": True}} if usage else {}
    with served.client.stream("POST", "/v1/completions", json=body, headers=HEADER) as answer:
        chunks = events(answer.read().decode())
    assert all("record" not in chunk.get("olc", {}) for chunk in chunks[:-1])
    record = chunks[-1]["olc"]["record"]
    valid(record, "record")
    whole = asked(served, {name: value for name, value in body.items() if not name.startswith("stream")})
    assert whole["olc"]["record"] == record
    replayed(olc, chunks[-1], tiny_model, tmp_path)


def test_a_bos_that_no_answer_shows_is_in_the_record(with_bos: Served, olc: Olc, tiny_model: Path, tmp_path: Path) -> None:
    document = asked(with_bos, {"prompt": [[40, 41, 42]], "max_tokens": 2, "echo": True, "logprobs": 0, "temperature": 0})
    (prompt,) = document["olc"]["record"]["prompts"]
    assert prompt["ids"] == [with_bos.model.tokenizer.bos_id, 40, 41, 42]
    assert [value is None for value in prompt["logprobs"]] == [True, False, False, False]
    assert "3 scored tokens" in replayed(olc, document, tiny_model, tmp_path)


def test_without_the_header_there_is_none(served: Served) -> None:
    assert "record" not in served.complete(**BODIES["greedy"])["olc"]
    for value, there in (("0", False), ("1", True)):
        answer = served.client.post("/v1/completions", json=BODIES["greedy"], headers={RECORD: value})
        assert ("record" in answer.json()["olc"]) == there
    refused = served.client.post("/v1/completions", json=BODIES["greedy"], headers={RECORD: "yes"})
    assert refused.status_code == 400
    assert "X-Olc-Record" in refused.json()["error"]["message"]
    assert refused.json()["error"]["param"] == "X-Olc-Record"


def test_the_key_is_not_in_it(tiny_model: Path) -> None:
    from openllama_cli.serve.guard import Access
    from tests.support.serve.servers import running

    with running(tiny_model, access=Access(key="a-secret-key")) as server:
        headers = {**HEADER, "Authorization": "Bearer a-secret-key"}
        answer: httpx.Response = server.client.post("/v1/completions", json=BODIES["greedy"], headers=headers)
    assert "record" in answer.json()["olc"]
    assert "a-secret-key" not in answer.text
