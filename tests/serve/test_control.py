"""Penalties, bans and ends over HTTP: what the loop makes of them without a server, streamed or not."""

from typing import Any

import pytest

from openllama_cli.api import Run
from openllama_cli.generation.decode.config import SamplingConfig
from openllama_cli.generation.text.completion import trace_document
from openllama_cli.generation.text.token_ids import resolve
from openllama_cli.serve.request import TRACED
from tests.support.serve.servers import Served, joined

PROMPT = "Q: What is the largest animal?"
OPTIONS: list[dict[str, Any]] = [
    {"ban": ["e", " a"]},
    {"ban": "the", "temperature": 1.0, "seed": 4},
    {"frequency_penalty": 0.7, "presence_penalty": -0.5, "temperature": 0.8, "seed": 1},
    {"dry_multiplier": 1.5, "dry_allowed_length": 1, "dry_sequence_breakers": ["x"]},
    {"ignore_eos": True, "stop_token_ids": [5, 6, 7, 8]},
    {"min_tokens": 8, "logit_bias": {"2": 50.0, "5": -3}},
    {"stop_at": "line"},
    {"heal": True, "logprobs": 1},
    {"loop_guard": True, "logit_bias": {"9": 100}},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_an_answer_is_what_the_loop_makes(served: Served, options: dict[str, Any]) -> None:
    body = {"prompt": PROMPT, "max_tokens": 24, "temperature": 0, **options}
    config = SamplingConfig.from_given({name: value for name, value in body.items() if name != "prompt"})
    model = served.model
    config = resolve(config, model.tokenizer, model.loaded.checkpoint.shape.vocab)
    (row,) = Run(model, [model.tokenizer.encode(PROMPT)], config).finish().rows
    (choice,) = served.complete(**body)["choices"]
    assert (choice["text"], choice["olc"]["finish_reason"]) == (row.text, row.finish_reason)
    (streamed,) = joined(served.stream(**body))
    assert (streamed["text"], streamed["finish_reason"]) == (choice["text"], choice["finish_reason"])
    assert streamed["logprobs"] == choice["logprobs"]


def test_samples_of_a_row_of_a_batch_draw_as_its_own(served: Served) -> None:
    """`olc batch --server` says which row it is; the first sample is the row's text without `n`."""
    body = {"prompt": "a", "max_tokens": 12, "temperature": 1.0, "seed": 3}

    def texts(row: int | None, n: int) -> list[str]:
        asked = body if row is None else body | {"olc": {"draws_as": row}}
        return [choice["text"] for choice in served.complete(**asked, n=n)["choices"]]

    assert texts(5, 3)[:1] == texts(5, 1)
    assert texts(None, 3)[:1] == texts(0, 1)
    everything = [*texts(5, 3), *texts(6, 3), *texts(None, 3)]
    assert len(set(everything)) == len(everything)


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0.9, "top_k": 9, "top_p": 0.9, "seed": 2, "ban": "e"},
        {"temperature": 0, "repetition_penalty": 1.3, "logprobs": 2, "heal": True},
        {"temperature": 1.0, "seed": 1, "min_p": 0.01, "echo": True, "logprobs": 0},
    ],
    ids=str,
)
def test_the_trace_is_that_of_the_decode_loop(served: Served, options: dict[str, Any]) -> None:
    body = {"prompt": PROMPT, "max_tokens": 12, **options}
    config = SamplingConfig.from_given({name: value for name, value in body.items() if name not in ("prompt", "echo")})
    model = served.model
    count = options.get("logprobs") or TRACED
    scored = options.get("echo", False)
    run = Run(model, [model.tokenizer.encode(PROMPT)], config, score_prompt=scored, trace=count)
    traces = [step.trace for step in run.steps() if step.trace is not None]
    start = len(run.rows[0].prompt)
    wanted = [trace_document(trace, start + place, model.tokenizer) for place, trace in enumerate(traces)]
    asked = body | {"olc": {"tokens": True, "trace": True}}
    (choice,) = served.complete(**asked)["choices"]
    assert [entry["trace"] for entry in choice["olc"]["tokens"]] == wanted
    assert [entry["id"] for entry in choice["olc"]["tokens"]] == [trace["token"] for trace in wanted]
    assert all("trace" not in entry for entry in choice["olc"].get("prompt", ()))
    chunks = [chunk["choices"][0]["olc"] for chunk in served.stream(**asked) if chunk["choices"]]
    assert [entry["trace"] for chunk in chunks for entry in chunk["tokens"]] == wanted
