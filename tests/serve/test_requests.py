"""Requests that cannot be answered: a 400 in OpenAI's shape that says what to send instead. And the small routes."""

from typing import Any

import pytest

from openllama_cli.serve.request import MOST_ROWS, MOST_STOPS
from tests.support.serve.servers import Served

TRACE = {"tokens": True, "trace": True}
REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({}, "missing_prompt", "send a text"),
    ({"prompt": 5}, "invalid_type", "list of token ids"),
    ({"prompt": []}, "invalid_type", "empty list"),
    ({"prompt": [[]]}, "invalid_type", "empty list"),
    ({"prompt": [1, "a"]}, "invalid_type", "list of token ids"),
    ({"prompt": ["a", 1]}, "invalid_type", "list of token ids"),
    ({"prompt": [True]}, "invalid_type", "list of token ids"),
    ({"prompt": [1, 400]}, "token_id_out_of_range", "0 to 399"),
    ({"prompt": [-1]}, "token_id_out_of_range", "0 to 399"),
    ({"prompt": "\ud800"}, "invalid_unicode", "UTF-8"),
    ({"prompt": "", "add_special_tokens": False}, "empty_prompt", "send a text"),
    ({"prompt": [5] * 257}, "context_length_exceeded", "257 tokens"),
    ({"prompt": [5] * 256}, "context_length_exceeded", "context is 256"),
    ({"prompt": "a", "max_tokens": 255}, "context_length_exceeded", "max_tokens is 255"),
    ({"prompt": "a", "max_tokens": -1}, "usage", "max_tokens -1 is out of range"),
    ({"prompt": "a", "max_tokens": 1.5}, "usage", "give an integer"),
    ({"prompt": "a", "temperature": -0.5}, "usage", "temperature"),
    ({"prompt": "a", "temperature": "hot"}, "usage", "give a number"),
    ({"prompt": "a", "top_p": 0}, "usage", "top_p 0"),
    ({"prompt": "a", "seed": 1.5}, "usage", "seed"),
    ({"prompt": "a", "logprobs": True}, "usage", "logprobs is true; give an integer"),
    ({"prompt": "a", "logprobs": 101}, "usage", "between 0 and 100"),
    ({"prompt": "a", "stop": ""}, "invalid_value", "leave it out"),
    ({"prompt": "a", "stop": ["x", ""]}, "invalid_value", "leave it out"),
    ({"prompt": "a", "stop": [1]}, "usage", "list of strings"),
    ({"prompt": "a", "stop": ["x"] * (MOST_STOPS + 1)}, "too_many_stops", "64 at most"),
    ({"prompt": "a", "n": 0}, "invalid_value", "from 1"),
    ({"prompt": "a", "n": 3, "best_of": 2}, "invalid_value", "must not be less"),
    ({"prompt": "a", "best_of": 2, "stream": True}, "unsupported_option", "cannot be streamed"),
    ({"prompt": ["a"] * 30, "n": MOST_ROWS // 10}, "too_many_completions", "several requests"),
    ({"prompt": ["a"] * (MOST_ROWS + 1)}, "too_many_completions", "several requests"),
    ({"prompt": ["a"] * 100, "n": 10, "max_tokens": 20, "logprobs": 100}, "too_many_logprobs", "2020000 in all"),
    ({"prompt": [[5] * 250] * 80, "max_tokens": 0, "echo": True, "logprobs": 100}, "too_many_logprobs", "or fewer logprobs"),
    ({"prompt": "a", "echo": "yes"}, "invalid_value", "true or false"),
    ({"prompt": "a", "stream_options": {"include_usage": True}}, "invalid_value", "stream: true"),
    ({"prompt": "a", "suffix": "b"}, "unsupported_option", "only at its end"),
    ({"prompt": "a", "logit_bias": {"": 1}}, "usage", "token ids and numbers"),
    ({"prompt": "a", "logit_bias": {"a quick brown fox": 1}}, "not_one_token", "tokens: "),
    ({"prompt": "a", "stop_token_ids": [400]}, "token_id_out_of_range", "stop_token_ids has token id 400, and"),
    ({"prompt": "a", "stop_token_ids": "13"}, "usage", "list of token ids"),
    ({"prompt": "a", "min_tokens": 17}, "usage", "min_tokens 17 is out of range"),
    ({"prompt": "a", "ban": ""}, "invalid_value", "ban has an empty text"),
    ({"prompt": "a", "ban": ["x"] * (MOST_STOPS + 1)}, "too_many_stops", "64 at most"),
    ({"prompt": "a", "bad_words": ["x"]}, "unsupported_option", "send them as ban"),
    ({"prompt": "a", "stop_at": "word"}, "usage", "line, sentence or paragraph"),
    ({"prompt": "a", "logit_bias": {"13": 1, "013": 2}}, "usage", "logit_bias has token id 13 twice"),
    ({"prompt": "a", "logit_bias": {"400": 1}}, "token_id_out_of_range", "0 to 399"),
    ({"prompt": "a", "presence_penalty": "1"}, "usage", "give a number"),
    ({"prompt": "a", "messages": []}, "unsupported_option", "send a prompt"),
    ({"prompt": "a", "olc": {"tokenz": True}}, "invalid_value", "tokens, trace, draws_by_choice, draws_as and fit"),
    ({"prompt": "a", "olc": {"trace": True}}, "invalid_value", "send tokens: true too"),
    ({"prompt": "a", "olc": {"tokens": True, "trace": 3}}, "invalid_value", "olc.trace is 3"),
    ({"prompt": ["a"] * 10, "n": 10, "max_tokens": 100, "logprobs": 100, "olc": TRACE}, "too_many_logprobs", "4010000 in all"),
]


@pytest.mark.parametrize(("body", "code", "says"), REFUSED, ids=[str(body)[:50] for body, _, _ in REFUSED])
def test_a_request_that_cannot_be_answered(served: Served, body: dict[str, Any], code: str, says: str) -> None:
    status, found, message = served.refused(**body)
    assert (status, found) == (400, code)
    assert says in message
    assert "--" not in message or "--always-bos" in message, "flags are not what a client sends"


def test_what_other_servers_know_and_asks_for_nothing_is_no_error(served: Served) -> None:
    """Also what nobody knows: lm-evaluation-harness sends do_sample. And any model: the answer says which one it is from."""
    nothing = {"suffix": None, "presence_penalty": 0, "frequency_penalty": 0.0, "logit_bias": {}, "best_of": 1, "user": "me"}
    answer = served.complete(prompt="a", model="gpt-3.5-turbo-instruct", do_sample=False, stop=[], **nothing)
    assert answer["model"] == served.model.name
    assert answer["choices"][0] == served.complete(prompt="a", stop=None, logprobs=None)["choices"][0]


@pytest.mark.parametrize(
    ("body", "code"),
    [(b"", "invalid_json"), (b"[1]", "invalid_json"), (b"{", "invalid_json"), (b"[" * 100_000, "invalid_json")],
)
def test_a_body_that_is_not_an_object(served: Served, body: bytes, code: str) -> None:
    answer = served.client.post("/v1/completions", content=body, headers={"content-type": "application/json; charset=utf-8"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_json")


def test_routes_that_are_not_there(served: Served) -> None:
    for method, path, status, code in (
        ("GET", "/v1/completion", 404, "not_found"),
        ("GET", "/v1/completions", 405, "method_not_allowed"),
        ("POST", "/v1/chat/completions", 404, "unsupported_endpoint"),
        ("GET", "/v1/models/other", 404, "model_not_found"),
        ("DELETE", "/health", 405, "method_not_allowed"),
    ):
        answer = served.client.request(method, path, headers={"content-type": "application/json"})
        error = answer.json()["error"]
        assert (answer.status_code, error["code"]) == (status, code), path
        assert error["message"]
        assert error["type"] == "invalid_request_error"
    assert served.client.get("/v1/completions").headers["allow"] == "POST"


def test_models(served: Served) -> None:
    (model,) = served.client.get("/v1/models").json()["data"]
    assert (model["id"], model["object"], model["max_model_len"]) == (served.model.name, "model", 256)
    assert model["olc"]["bos_id"] == 1
    assert served.client.get(f"/v1/models/{model['id']}").json() == model


def test_tokenize_and_back(served: Served) -> None:
    def post(path: str, **body: Any) -> Any:
        return served.client.post(path, json=body).json()

    text, tokenizer = "  The größte </s> fox", served.model.tokenizer
    found = post("/tokenize", prompt=text, pieces=True)
    assert found["tokens"] == tokenizer.encode(text)
    assert found["count"] == len(found["tokens"])
    assert [piece for _, piece in found["pieces"]] == [tokenizer.text(token) for token in found["tokens"]]
    spans = post("/tokenize", prompt=text, spans=True)
    assert [tuple(span) for span in spans["spans"]] == tokenizer.spans(text)
    assert spans["bos_id"] == spans["tokens"][0] == tokenizer.bos_id
    assert "spans" not in found
    assert post("/detokenize", tokens=found["tokens"]) == {"prompt": text}
    # As lm-evaluation-harness asks: no BOS, and special tokens that are spelled out are their ids.
    assert post("/tokenize", prompt="</s>", add_special_tokens=False)["tokens"] == [2]
    assert post("/tokenize", prompt="a</s>", add_special_tokens=False)["tokens"] == [*tokenizer.encode("a", bos=False), 2]
    assert post("/tokenize", prompt="</s>")["tokens"] == tokenizer.encode("</s>")
    info = served.client.get("/tokenizer_info").json()
    assert (info["bos_token"], info["eos_token"], info["pad_token"]) == ("<s>", "</s>", None)
    for path, body in (
        ("/tokenize", {}),
        ("/tokenize", {"prompt": 1}),
        ("/detokenize", {}),
        ("/detokenize", {"tokens": [9999]}),
    ):
        assert served.client.post(path, json=body).status_code == 400


def test_metrics_count(served: Served) -> None:
    def value(name: str) -> float:
        lines = served.client.get("/metrics").text.splitlines()
        return float(next(line.rpartition(" ")[2] for line in lines if line.startswith(name)))

    before = value("olc_completion_tokens_total")
    served.complete(prompt="a", max_tokens=5, echo=True)
    assert value("olc_completion_tokens_total") == before + 5
    assert value("olc_rows_running") == value("olc_rows_waiting") == 0
    assert value("olc_ready") == 1
    served.client.get("/no/such/path")
    assert "/no/such/path" not in served.client.get("/metrics").text, "paths are anybody's to invent"
