"""Choices over HTTP: the same as in Python, and refusals that say what to leave out."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from openllama_cli.generation.choices.config import MOST_CHOICES
from openllama_cli.serve.choices import MOST_BRANCHES
from tests.support.serve.servers import Served

TEXTS = ["blue", "dark green", "red", "東京", "1", "10"]


def test_an_answer_is_what_python_chooses(served: Served) -> None:
    prompts = ["The sky is", "The sky is ", "", "the quick brown fox " * 8]
    for options in (
        {},
        {"choices_normalize": "token", "calibrate_with": "N/A"},
        {"choices_prefix": "\n", "calibrate_with": ""},
    ):
        named: Any = {name.removeprefix("choices_"): value for name, value in options.items()}
        chosen = served.model.choose(prompts, TEXTS, **named)
        made = served.complete(prompt=prompts, choices=TEXTS, **options)
        assert [choice["text"] for choice in made["choices"]] == [one.text for one in chosen]
        assert [choice["index"] for choice in made["choices"]] == [0, 1, 2, 3]
        for choice, one in zip(made["choices"], chosen, strict=True):
            assert (choice["finish_reason"], choice["logprobs"]) == ("stop", None)
            assert choice["olc"]["choices"] == [alternative.document() for alternative in one.alternatives]
            assert choice["olc"]["normalize"] == options.get("choices_normalize", "sum")
            assert choice["olc"]["calibrated"] == ("calibrate_with" in options)
        tokens = sum(next(a.tokens for a in one.alternatives if a.text == one.text) for one in chosen)
        assert made["usage"]["completion_tokens"] == tokens
        assert made["usage"]["total_tokens"] == made["usage"]["prompt_tokens"] + tokens
    assert served.logged()[-1].completion_tokens == tokens


def test_defaults_of_clients_are_no_options(served: Served) -> None:
    alone = served.complete(prompt="The sky is", choices=TEXTS)
    defaults = {"n": 1, "best_of": 1, "stream": False, "echo": False, "logprobs": None, "max_tokens": 16, "temperature": 1}
    defaults |= {
        "top_p": 1.0,
        "frequency_penalty": 0,
        "logit_bias": {},
        "dry_multiplier": 0,
        "ban": [],
        "stop": None,
        "seed": None,
        "user": "x",
        "suffix": "",
    }
    assert served.complete(prompt="The sky is", choices=TEXTS, **defaults)["choices"] == alone["choices"]


@pytest.mark.parametrize(
    ("body", "code", "words"),
    [
        ({"choices": []}, "choices_count", "give at least two"),
        ({"choices": ["a"]}, "choices_count", "give at least two"),
        ({"choices": ["a", ""]}, "choices_empty", "choice 2 is empty"),
        ({"choices": ["a", "a"]}, "choices_duplicate", "'a' is given twice"),
        ({"choices": [str(number) for number in range(MOST_CHOICES + 1)]}, "choices_count", "at most"),
        ({"choices": "a,b"}, "invalid_value", "list of texts"),
        ({"choices": ["a", 1]}, "invalid_value", "list of texts"),
        ({"choices": ["a", "b"], "choices_prefix": 1}, "invalid_value", "choices_prefix"),
        ({"choices": ["a", "b"], "choices_normalize": "word"}, "choices_normalize", "sum, token or byte"),
        ({"choices_prefix": " "}, "invalid_value", "choices_prefix"),
        ({"calibrate_with": ""}, "invalid_value", "calibrate_with"),
        ({"choices": ["a", "b"], "prompt": [1, 2, 3]}, "unsupported_option", "as a text"),
        ({"choices": ["a", "b"], "prompt": ["x", [1, 2]]}, "unsupported_option", "as a text"),
        ({"choices": ["a", "b"], "prompt": None}, "unsupported_option", "as a text"),
        ({"choices": ["a", "b"], "prompt": "x " * 300}, "context_length_exceeded", "the prompt and its choice"),
        ({"choices": ["a", "b"], "prompt": ["x"] * (MOST_BRANCHES // 2 + 1)}, "too_many_completions", "several requests"),
        ({"choices": [*map(str, range(1000))], "prompt": ["x" * 5000] * 8}, "too_many_completions", "characters"),
        ({"choices": [f"{n} " * 50 for n in range(1000)], "prompt": ["x"] * 16}, "too_many_completions", "tokens together"),
        ({"choices": ["a", "b" * 4_000_000]}, "context_length_exceeded", "bbb…"),
        ({"choices": ["a", "\ud800"]}, "invalid_unicode", "send valid Unicode"),
        ({"choices": ["a", "b"], "prompt": ["x"] * 1025}, "too_many_completions", "several requests"),
        *(
            ({"choices": ["a", "b"], name: value}, "unsupported_option", f"{name} says nothing beside choices")
            for name, value in {
                "n": 2,
                "best_of": 3,
                "stream": True,
                "echo": True,
                "logprobs": 0,
                "max_tokens": 5,
                "temperature": 0.5,
                "seed": 1,
                "stop": "x",
                "top_k": 3,
                "logit_bias": {"5": 1},
                "ban": ["x"],
                "loop_guard": True,
                "min_tokens": 3,
                "stop_at": "line",
                "ignore_eos": True,
            }.items()
        ),
    ],
    ids=lambda value: ""[:0] if not isinstance(value, str) else value[:20],
)
def test_what_makes_no_sense_is_refused(served: Served, body: dict[str, Any], code: str, words: str) -> None:
    status, found, message = served.refused(**{"prompt": "The sky is", **body})
    assert (status, found) == (400, code)
    assert words in message


def test_choices_run_beside_completions_of_others(served: Served) -> None:
    """Requests of both kinds wait for each other's rows, and none changes another's answer."""

    def ask(number: int) -> Any:
        if number % 2:
            return served.complete(prompt=f"number {number} is", choices=TEXTS, calibrate_with="")["choices"]
        return served.complete(prompt=f"number {number} is", max_tokens=20, olc={"tokens": True})["choices"]

    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(ask, range(16)))
    assert together == [ask(number) for number in range(16)]
