"""What the server answers is what the loop computes without it, whatever else runs, and however a client takes it."""

import asyncio
import random
import time
from collections.abc import Sequence
from typing import Any

import httpx
import pytest

from openllama_cli.api import Run
from openllama_cli.generation.decode.config import SamplingConfig
from openllama_cli.generation.text.completion import choice
from tests.support.serve.servers import Served, events, joined

TEXTS = ["Q: What is the largest animal?", "The quick brown fox", "def main():\n", "", "Die größte Stadt", "  spaces  "]


def truth(served: Served, body: dict[str, Any]) -> list[dict[str, Any]]:
    """The choices as `olc complete` makes them: each prompt of a request by itself."""
    sampling = SamplingConfig(
        body.get("max_tokens", 16),
        body["temperature"],
        top_p=body.get("top_p", 1.0),
        seed=body.get("seed"),
        stop=tuple(body.get("stop", ())),
        logprobs=body.get("logprobs"),
    )
    tokenizer, found = served.model.tokenizer, []
    for prompt in body["prompt"] if isinstance(body["prompt"], list) else [body["prompt"]]:
        tokens = tokenizer.encode(prompt) if isinstance(prompt, str) else prompt
        echo = (prompt if isinstance(prompt, str) else tokenizer.decode(prompt)) if body.get("echo") else None
        scores = echo is not None and sampling.logprobs is not None
        run = Run(served.model, [tokens], sampling, samples=body.get("n", 1), score_prompt=scores).finish()
        for row in run.rows:
            made = choice(len(found), row, tokenizer, echo=echo, logprobs=sampling.logprobs is not None)
            found.append({**made, "olc": {"finish_reason": row.finish_reason, "seed": sampling.seed, "room": run.room}})
    return found


def bodies(count: int) -> list[dict[str, Any]]:
    """Requests of all kinds and lengths, the same every time."""
    chance = random.Random(7)
    made = []
    for number in range(count):
        prompt: Any = chance.choice(TEXTS) * chance.randint(1, 6)
        if number % 5 == 1:
            prompt = [chance.randrange(3, 400) for _ in range(chance.randint(1, 100))]
            prompt = [prompt, prompt[:7]]
        body = {"prompt": prompt, "temperature": 0, "max_tokens": chance.randint(0, 12)}
        if number % 2:
            body |= {"temperature": 0.9, "top_p": 0.95, "seed": number, "n": chance.randint(1, 2)}
        if number % 3 == 0:
            body |= {"logprobs": number % 4, "echo": number % 2 == 0}
        made.append({**body, "stream": number % 4 < 2})
    return made


async def send(client: httpx.AsyncClient, body: dict[str, Any], leaves: bool) -> list[dict[str, Any]] | None:
    """The choices of an answer; None if the client left halfway."""
    if leaves:
        try:
            async with client.stream("POST", "/v1/completions", json={**body, "stream": True, "max_tokens": 90}) as answer:
                async for _ in answer.aiter_raw():
                    return None
        except httpx.HTTPError:
            pass
        return None
    answer = await client.post("/v1/completions", json=body)
    assert answer.status_code == 200, answer.text
    if body["stream"]:
        return joined(events(answer.text))
    choices: list[dict[str, Any]] = answer.json()["choices"]
    return choices


async def send_all(url: str, all_: Sequence[dict[str, Any]]) -> list[list[dict[str, Any]] | None]:
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=200, limits=limits) as client:
        return await asyncio.gather(*(send(client, body, number % 6 == 5) for number, body in enumerate(all_)))


@pytest.mark.parametrize("count", [1, 7, 64])
def test_answers_do_not_depend_on_what_runs_beside(served: Served, count: int) -> None:
    """Bytes, log-probabilities and reasons; some clients leave halfway, and 64 wait for seven places."""
    asked = bodies(count)
    answers = asyncio.run(send_all(served.url, asked))
    assert sum(answer is None for answer in answers) == count // 6
    for body, answer in zip(asked, answers, strict=True):
        assert answer is None or answer == truth(served, body), body


def test_rows_of_clients_that_left_are_free(served: Served) -> None:
    """A stream that is closed after its first chunk leaves no row behind, though it had hundreds of tokens to go."""
    with served.client.stream(
        "POST", "/v1/completions", json={"prompt": "a", "max_tokens": 250, "stream": True, "n": 7}
    ) as answer:
        next(answer.iter_raw())
    while served.engine.scheduler.active:
        time.sleep(0.005)
    assert served.engine.scheduler.waiting == 0


@pytest.mark.parametrize(
    "more",
    [
        {"echo": True, "logprobs": 3, "olc": {"tokens": True}},
        {"stop": ["e", "an"], "logprobs": 1, "olc": {"tokens": True}},
        {"n": 3, "temperature": 1.0, "seed": 5, "logprobs": 0},
        {"temperature": 1.5, "seed": 1, "max_tokens": 60, "olc": {"tokens": True}, "echo": True},
        {"max_tokens": 0, "echo": True, "logprobs": 2},
    ],
)
def test_a_stream_is_the_answer_in_parts(served: Served, more: dict[str, Any]) -> None:
    body = {"prompt": "The größte fox", "max_tokens": 20, **more}
    document, chunks = served.complete(**body), served.stream(**body)
    assert joined(chunks) == document["choices"]
    assert [("olc" in chunk) for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert {chunk["id"] for chunk in chunks} == {chunks[0]["id"]}


def test_usage_of_a_stream_comes_last_if_asked_for(served: Served) -> None:
    body = {"prompt": ["a", "b c"], "max_tokens": 5, "stream_options": {"include_usage": True}}
    chunks = served.stream(**body)
    assert all(chunk["usage"] is None for chunk in chunks[:-1])
    assert chunks[-1]["choices"] == []
    del body["stream_options"]
    assert chunks[-1]["usage"] == served.complete(**body)["usage"]


def test_tokens_cut_the_text_and_go_on_from(served: Served) -> None:
    """What a page needs: ids, where each token starts in the text, its alternatives; and ids can be sent back."""
    found = served.complete(prompt="The quick", max_tokens=12, echo=True, logprobs=4, olc={"tokens": True})["choices"][0]
    own, text = found["olc"], found["text"]
    entries = own["prompt"] + own["tokens"]
    offsets = [entry["offset"] for entry in entries]
    parts = [text[start:end] for start, end in zip(offsets, [*offsets[1:], len(text)], strict=True)]
    assert "".join(parts) == text
    assert [entry["id"] for entry in own["prompt"]] == own["prompt_ids"] == served.model.tokenizer.encode("The quick")
    assert all(len(entry["top"]) == 4 and entry["top"][0][2] >= entry["top"][1][2] for entry in own["tokens"])
    assert all(entry["entropy"] > 0 for entry in own["tokens"])
    ids = [*own["prompt_ids"], *(entry["id"] for entry in own["tokens"][:5])]
    rest = served.complete(prompt=ids, max_tokens=7, olc={"tokens": True})["choices"][0]["olc"]["tokens"]
    assert [entry["id"] for entry in rest] == [entry["id"] for entry in own["tokens"][5:]]


def test_best_of_are_the_most_likely_by_token(served: Served) -> None:
    body = {"prompt": "Water", "max_tokens": 9, "temperature": 1.0, "seed": 3}
    many = served.complete(**body, n=6, logprobs=0)["choices"]
    means = [sum(one["logprobs"]["token_logprobs"]) / len(one["logprobs"]["token_logprobs"]) for one in many]
    best = sorted(range(6), key=lambda place: -means[place])[:2]
    found = served.complete(**body, n=2, best_of=6)
    assert [one["text"] for one in found["choices"]] == [many[place]["text"] for place in best]
    assert [one["index"] for one in found["choices"]] == [0, 1]
    assert found["choices"][0]["logprobs"] is None
    assert found["usage"]["completion_tokens"] == sum(len(one["logprobs"]["token_logprobs"]) for one in many)


def test_seeds(served: Served) -> None:
    """One seed, one text; without one, equal prompts of one request get different texts, and the seeds that repeat them."""
    body = {"prompt": ["a b", "a b"], "max_tokens": 20, "temperature": 1.0}
    one, other = served.complete(**body, seed=4)["choices"]
    assert one["text"] == other["text"]
    one, other = served.complete(**body, seed=4, olc={"draws_by_choice": True})["choices"]
    assert one["text"] != other["text"]
    answer = served.complete(**body)
    one, other = answer["choices"]
    assert one["text"] != other["text"]
    assert served.complete(**{**body, "prompt": "a b"}, seed=other["olc"]["seed"])["choices"][0]["text"] == other["text"]


def test_defaults_are_those_of_openai(served: Served) -> None:
    """Sampled at 1.0, sixteen tokens; a length that nobody asked for ends where the context does."""
    answers = {served.client.post("/v1/completions", json={"prompt": "a"}).json()["choices"][0]["text"] for _ in range(4)}
    assert len(answers) > 1
    long = [5] * 250
    found = served.client.post("/v1/completions", json={"prompt": long, "temperature": 0}).json()
    assert found["usage"] == {"prompt_tokens": 250, "completion_tokens": 6, "total_tokens": 256}
    assert found["choices"][0]["finish_reason"] == "length"
    assert found["choices"][0]["olc"]["finish_reason"] == "context"


def test_what_the_answer_was_made_with(served: Served) -> None:
    own = served.complete(prompt="a", max_tokens=3)["olc"]
    assert own["dtype"] == own["precision"] == "float32"
    assert own["forward"] == "lean forward pass"
    assert own["timings"]["time_to_first_token_s"] > 0
    assert own["timings"]["load_s"] == 0


def test_penalties_and_bias(served: Served) -> None:
    """They change what is chosen, token by token, and not the log-probabilities that are reported."""
    body = {"prompt": "The quick", "max_tokens": 30, "olc": {"tokens": True}, "logprobs": 1}

    def ids(**more: Any) -> list[int]:
        return [entry["id"] for entry in served.complete(**body, **more)["choices"][0]["olc"]["tokens"]]

    plain = ids()
    banned = ids(logit_bias={str(plain[0]): -100})
    assert plain[0] not in banned
    assert len(set(ids(frequency_penalty=2.0, presence_penalty=2.0))) > len(set(plain))
    assert len(set(ids(presence_penalty=100))) == 30, "nothing twice"
    first = served.complete(**body, logit_bias={str(plain[0]): -100})["choices"][0]["olc"]["tokens"][0]
    assert first["top"][0][0] == plain[0]
    assert first["logprob"] < first["top"][0][2]
    assert ids(frequency_penalty=0, presence_penalty=0.0, logit_bias={}) == plain
