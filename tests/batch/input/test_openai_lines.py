"""OpenAI batch lines of /v1/completions: what is read, and what is refused line by line."""

from pathlib import Path
from typing import Any

import pytest

from openllama_cli.batch.input.rows import RowSettings
from openllama_cli.generation.decode.config import SamplingConfig
from openllama_cli.prompt_templates import PromptTemplate, load_template
from tests.support.reading import code_of, read_object, read_text


def request(body: Any, /, **fields: Any) -> dict[str, Any]:
    """A line. body: its fields, with a prompt unless they have one. fields: what replaces the line's others."""
    body = {"model": "m", "prompt": "x", **body} if isinstance(body, dict) else body
    return {"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": body} | fields


def test_a_line_with_all_that_is_known(tmp_path: Path) -> None:
    body = {
        "model": "gpt-3.5-turbo-instruct",
        "prompt": "Once",
        "max_tokens": 7,
        "temperature": 0.2,
        "top_p": 0.9,
        "stop": ["\n", "END"],
        "seed": 5,
        "logprobs": 3,
        "echo": True,
        "n": 1,
        "best_of": 1,
        "stream": False,
        "suffix": None,
        "presence_penalty": 0,
        "frequency_penalty": 0.0,
        "logit_bias": {},
        "user": "someone",
        "top_k": 40,
    }
    row = read_object(tmp_path, request(body, custom_id="request-1"))
    assert code_of(row) is None
    assert (row.custom_id, row.prompt, row.echo, row.openai, row.own_seed) == ("request-1", "Once", True, True, True)
    assert row.sampling == SamplingConfig(7, 0.2, 0.9, top_k=40, seed=5, stop=("\n", "END"), logprobs=3)


def test_what_the_body_leaves_out_is_the_commands(tmp_path: Path) -> None:
    settings = RowSettings(defaults={"max_tokens": 3, "stop": ("Q:",)})
    row = read_object(tmp_path, request({"max_tokens": None, "temperature": None}), settings)
    assert row.sampling == settings.sampling
    assert not row.echo
    assert not row.own_seed


@pytest.mark.parametrize(
    ("prompt", "text", "tokens"),
    [
        ("a", "a", None),
        ("", "", None),
        (["a"], "a", None),
        ([5], None, (5,)),
        ([1, 2, 0], None, (1, 2, 0)),
        ([[1, 2]], None, (1, 2)),
    ],
)
def test_a_prompt_is_text_or_token_ids(tmp_path: Path, prompt: Any, text: str | None, tokens: tuple[int, ...] | None) -> None:
    row = read_object(tmp_path, request({"prompt": prompt}))
    assert code_of(row) is None
    assert (row.prompt, row.tokens) == (text, tokens)


@pytest.mark.parametrize(
    ("body", "code", "said"),
    [
        ({"prompt": None}, "missing_prompt", "no prompt"),
        ({"prompt": None, "messages": [{"role": "user", "content": "hi"}]}, "missing_prompt", "messages"),
        *[
            ({"prompt": p}, "invalid_type", "")
            for p in (7, [], [[]], [True], [1.0], [-1], [1, "a"], [None], [[["a"]]], {"a": 1})
        ],
        ({"prompt": "\ud800"}, "invalid_unicode", ""),
        ({"prompt": ["a", "b"]}, "unsupported_option", ""),
        ({"prompt": [[1], [2]]}, "unsupported_option", ""),
        ({"n": 0}, "bad_option", "n is 0; give an integer from 1"),
        ({"n": True}, "bad_option", "n is true"),
        ({"n": "1"}, "bad_option", 'n is "1"'),
        ({"n": 3, "best_of": 2}, "bad_option", "best_of is 2 and n is 3"),
        ({"suffix": "end"}, "unsupported_option", 'suffix is "end"'),
        ({"stream": True}, "unsupported_option", "stream is true"),
        ({"presence_penalty": "0.1"}, "bad_option", "presence_penalty"),
        ({"frequency_penalty": True}, "bad_option", "frequency_penalty"),
        ({"logit_bias": {"50256": "x"}}, "bad_option", "logit_bias is {"),
        ({"stop_token_ids": [-1]}, "bad_option", "stop_token_ids -1 is out of range"),
        ({"min_tokens": 99}, "bad_option", "min_tokens 99 is out of range"),
        ({"ban": ""}, "bad_option", "ban is empty"),
        ({"bad_words": ["x"]}, "bad_option", "did you mean ban?"),
        ({"temperature": "hot"}, "bad_option", ""),
        ({"echo": "yes"}, "bad_option", ""),
        ({"echo": 1}, "bad_option", ""),
        ({"max_token": 5}, "bad_option", ""),
        *[(body, "invalid_type", "") for body in (None, "x", [], 5)],
    ],
)
def test_a_body_that_asks_for_what_there_is_not_is_an_error_row(tmp_path: Path, body: Any, code: str, said: str) -> None:
    row = read_object(tmp_path, request(body))
    assert code_of(row) == code
    assert row.error is not None
    assert said in row.error.message
    assert (row.custom_id, row.openai) == ("a", True)


@pytest.mark.parametrize(
    "fields",
    [
        {"url": "/v1/chat/completions", "body": {"messages": []}},
        {"url": "/v1/embeddings"},
        {"url": "https://api.openai.com/v1/completions"},
        {"url": None},
        {"url": 5},
        {"method": "GET"},
        {"method": None},
    ],
)
def test_requests_of_something_else_are_error_rows(tmp_path: Path, fields: dict[str, Any]) -> None:
    row = read_object(tmp_path, request({}, **fields))
    assert (code_of(row), row.openai) == ("unsupported_endpoint", True)


def test_a_line_that_cannot_be_parsed_is_answered_in_the_shape_of_its_neighbors(tmp_path: Path) -> None:
    whole = '{"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": {"prompt": "x"}}'
    rows = read_text(tmp_path, ".jsonl", f"{whole}\n{whole[:-1]}\n{{\n".encode() + whole.encode().replace(b"x", b"\xff"))
    assert [(code_of(row), row.openai) for row in rows] == [
        (None, True),
        ("invalid_json", True),
        ("invalid_json", False),
        ("invalid_utf8", True),
    ]


def test_a_template_and_whole_prompts_exclude_each_other(tmp_path: Path) -> None:
    assert code_of(read_object(tmp_path, request({}), RowSettings(load_template("qa")))) == "template_error"


def test_a_template_may_have_variables_called_body_and_url(tmp_path: Path) -> None:
    article = PromptTemplate("article", "{{ url }}: {{ body }}", variables=("url", "body"))
    row = read_object(tmp_path, {"url": "http://x", "body": "text"}, RowSettings(article))
    assert (row.prompt, row.openai) == ("http://x: text", False)
