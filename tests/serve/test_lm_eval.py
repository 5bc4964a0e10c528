"""Requests of lm-evaluation-harness (`local-completions`), answered so that its sums are those of a full pass in float64."""

import math
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.models.tiny_models import load_llama
from tests.support.serve.servers import Served

CHANCE = random.Random(5)
# A context, and what may follow it: unequal lengths, up to the whole context of the model.
PAIRS = [
    ([CHANCE.randrange(3, 400) for _ in range(context)], [CHANCE.randrange(3, 400) for _ in range(continuation)])
    for context, continuation in ((1, 1), (5, 1), (1, 9), (64, 3), (63, 1), (130, 7), (200, 55))
]


@pytest.fixture(scope="module")
def exact(tiny_model: Path) -> Any:
    """The same weights in float64, by transformers."""
    return load_llama(tiny_model).double()


def payload(prompts: list[list[int]]) -> dict[str, Any]:
    return {
        "model": "x",
        "prompt": prompts,
        "temperature": 0,
        "max_tokens": 1,
        "logprobs": 1,
        "seed": 1234,
        "echo": True,
    }


def parsed(answer: dict[str, Any], lengths: list[int]) -> list[tuple[float, bool]]:
    """Sums and whether greedy, by lm-evaluation-harness's own arithmetic."""
    found = []
    for choice, length in zip(sorted(answer["choices"], key=lambda choice: choice["index"]), lengths, strict=True):
        values = choice["logprobs"]["token_logprobs"][length:-1]
        tops = choice["logprobs"]["top_logprobs"][length:-1]
        greedy = all(value == max(top.values()) for value, top in zip(values, tops, strict=True))
        found.append((sum(values), greedy))
    return found


@torch.inference_mode()
def truth(exact: Any, context: list[int], continuation: list[int], bos: list[int]) -> tuple[float, bool]:
    ids = torch.tensor([[*bos, *context, *continuation]])
    logprobs = exact(ids).logits[0].log_softmax(-1)
    start = len(bos) + len(context)
    rows = [(logprobs[start + place - 1], token) for place, token in enumerate(continuation)]
    return math.fsum(float(row[token]) for row, token in rows), all(int(row.argmax()) == token for row, token in rows)


def check(served: Served, exact: Any, bos: list[int], pairs: list[tuple[list[int], list[int]]]) -> None:
    # A continuation that is greedy, too.
    context = pairs[1][0]
    best = int(exact(torch.tensor([[*bos, *context]])).logits[0, -1].argmax())
    pairs = [*pairs, (context, [best])]
    answer = served.complete(**payload([[*context, *continuation] for context, continuation in pairs]))
    for choice, (context, continuation) in zip(answer["choices"], pairs, strict=True):
        for name in ("token_logprobs", "top_logprobs", "tokens", "text_offset"):
            assert len(choice["logprobs"][name]) == len(context) + len(continuation) + 1
    found = parsed(answer, [len(context) for context, _ in pairs])
    for (total, greedy), (context, continuation) in zip(found, pairs, strict=True):
        wanted, wanted_greedy = truth(exact, context, continuation, bos)
        assert total == pytest.approx(wanted, abs=1e-3)
        assert greedy == wanted_greedy
    assert found[-1][1], "the most likely continuation is greedy"


def test_likelihoods_are_those_of_a_full_pass(served: Served, exact: Any) -> None:
    before = len(served.log)
    check(served, exact, [], PAIRS)
    check(served, exact, [], PAIRS[:2])
    hints = [line for line in served.log[before:] if "--always-bos" in line]
    assert len(hints) <= 1, "said once"
    assert any("--always-bos" in line for line in served.log)


def test_a_bos_in_front_that_no_answer_shows(with_bos: Served, exact: Any) -> None:
    """The first token gets a log-probability, and all is as long as what was sent."""
    fitting = [(context, continuation[:54]) for context, continuation in PAIRS]
    check(with_bos, exact, [1], fitting)
    (choice,) = with_bos.complete(**payload([[7, 8]]))["choices"]
    logprobs = choice["logprobs"]
    with torch.inference_mode():
        wanted = float(exact(torch.tensor([[1]])).logits[0, -1].log_softmax(-1)[7])
    assert logprobs["token_logprobs"][0] == pytest.approx(wanted, abs=1e-4)
    assert logprobs["tokens"][0] == with_bos.model.tokenizer.text(7)
    assert logprobs["text_offset"][0] == 0
    # A prompt that has its BOS gets no second one, and neither do texts.
    (own,) = with_bos.complete(**payload([[1, 7, 8]]))["choices"]
    assert own["logprobs"]["token_logprobs"] == [None, *logprobs["token_logprobs"]]
    text = with_bos.complete(prompt="fox", echo=True, logprobs=1, max_tokens=1)["choices"][0]["logprobs"]
    assert text["tokens"].count("<s>") == 1
    assert not any("hint" in line for line in with_bos.log)
    status, code, message = with_bos.refused(**payload([[7] * 255]))
    assert (status, code) == (400, "context_length_exceeded")
    assert "--always-bos" in message


def test_eos_as_the_next_token_is_listed(served: Served, exact: Any) -> None:
    """A final EOS that is dropped would cost lm-evaluation-harness a token, without a word."""
    ids = torch.randint(3, 400, (6000, 4), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        ends = exact(ids).logits[:, -1].argmax(-1) == 2
    prompt = ids[ends][0].tolist()
    (choice,) = served.complete(**payload([prompt]))["choices"]
    assert len(choice["logprobs"]["tokens"]) == 5
    assert choice["logprobs"]["tokens"][-1] == "</s>"


def test_generation_requests(served: Served) -> None:
    """`stop` of none to many, and keys that nobody knows."""
    body = {"prompt": [[1, 5, 9]], "max_tokens": 8, "seed": 1234, "do_sample": False}
    many = served.complete(**body, stop=["\n\n", "Question:", "</s>", "e", "#", "<|im_end|>"])["choices"][0]
    plain = served.complete(**body, stop=[])["choices"][0]
    assert plain["text"].startswith(many["text"])
