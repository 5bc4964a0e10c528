"""`Model.choose` against full passes in float64 over each prompt with each choice. A random model: nothing is judged."""

import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch

import openllama_cli as olc
from openllama_cli.generation.choices.branches import branch
from openllama_cli.generation.choices.config import Choices
from tests.support.models.tiny_models import load_llama

TEXTS = ["blue", "a dark green", "東京", "größer!", "red"]
PROMPTS = ["The sky is", "The sky is ", "The sk", "", "最大の動物は", "Q: Which color?\nA:", "The quick brown fox jumps. " * 9]


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> olc.Model:
    return olc.load(str(tiny_model), dtype="float32", progress=False)


@pytest.fixture(scope="module")
def exact(tiny_model: Path) -> Any:
    return load_llama(tiny_model).double()


def log_likelihood(exact: Any, tokens: list[int], start: int) -> float:
    """Of tokens from `start` on, given those before."""
    with torch.no_grad():
        logprobs = exact(torch.tensor([tokens])).logits[0].log_softmax(-1)
    return math.fsum(float(logprobs[place - 1, tokens[place]]) for place in range(start, len(tokens)))


@pytest.mark.parametrize("prompt", PROMPTS, ids=repr)
def test_log_likelihoods_are_those_of_a_full_pass_over_prompt_and_choice(model: olc.Model, exact: Any, prompt: str) -> None:
    chosen = model.choose(prompt, TEXTS)
    prefix = "" if not prompt or prompt[-1].isspace() else " "
    joint = [model.tokenizer.encode(prompt + prefix + text) for text in TEXTS]
    own = model.tokenizer.encode(prompt)
    start = min(
        sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(own, tokens, strict=False))) for tokens in joint
    )
    wanted = [log_likelihood(exact, tokens, start) for tokens in joint]
    assert [one.text for one in chosen.alternatives] == TEXTS
    assert [one.logprob for one in chosen.alternatives] == pytest.approx(wanted, abs=1e-4)
    assert [one.tokens for one in chosen.alternatives] == [len(tokens) - start for tokens in joint]
    assert math.fsum(one.probability for one in chosen.alternatives) == pytest.approx(1)
    assert chosen.text == TEXTS[wanted.index(max(wanted))] == str(chosen)
    assert chosen.probability == max(one.probability for one in chosen.alternatives)
    assert chosen.prompt == prompt


@pytest.mark.parametrize("prompt", PROMPTS, ids=repr)
def test_the_evaluation_harness_splits_prompt_and_choice_to_the_same_sums(model: olc.Model, exact: Any, prompt: str) -> None:
    """As lm-evaluation-harness's `TemplateLM._encode_pair`: spaces at the context's end go to the continuation."""
    prefix = "" if not prompt or prompt[-1].isspace() else " "
    chosen = model.choose(prompt, TEXTS)
    branched = branch(model.tokenizer, prompt, Choices(tuple(TEXTS)))
    compared = 0
    for one, own in zip(chosen.alternatives, branched.branches, strict=True):
        context, continuation = prompt, prefix + one.text
        spaces = len(context) - len(context.rstrip())
        if spaces:
            context, continuation = context[:-spaces], context[-spaces:] + continuation
        whole, start = model.tokenizer.encode(context + continuation), len(model.tokenizer.encode(context))
        if tuple(whole[start:]) == own:
            assert one.logprob == pytest.approx(log_likelihood(exact, whole, start), abs=1e-4)
            compared += 1
    assert compared == len(TEXTS) or prompt == "The sk", "where the harness cuts a token in two"


def test_a_choice_that_another_begins_with_counts_without_it(model: olc.Model, exact: Any) -> None:
    """Log-likelihoods by what is left of the texts that begin with the choice: 1 - P(the rest of the longer one)."""
    short, longer, other = model.choose("I have", ["1", "10", "7"]).alternatives
    branched = branch(model.tokenizer, "I have", Choices(("1", "10", "7")))
    one, ten = ([*branched.prompt, *own] for own in branched.branches[:2])
    assert ten[: len(one)] == one
    p_one, p_ten = (math.exp(log_likelihood(exact, tokens, len(branched.prompt))) for tokens in (one, ten))
    assert short.logprob == pytest.approx(math.log(p_one - p_ten), abs=1e-4)
    assert longer.logprob == pytest.approx(math.log(p_ten), abs=1e-4)
    assert other.logprob == model.choose("I have", ["7", "9"]).alternatives[0].logprob


def test_calibration_and_normalization_are_of_the_same_log_likelihoods(model: olc.Model) -> None:
    plain, neutral = (model.choose(prompt, TEXTS).alternatives for prompt in ("The sky is", "N/A"))
    for normalize, size in (("sum", lambda one: 1), ("token", lambda one: one.tokens), ("byte", lambda one: one.bytes)):
        found: Any = model.choose("The sky is", TEXTS, normalize=normalize, calibrate_with="N/A").alternatives  # type: ignore[call-overload]
        wanted = [
            one.logprob / size(one) - other.logprob / size(other)  # type: ignore[no-untyped-call]
            for one, other in zip(plain, neutral, strict=True)
        ]
        assert [one.score for one in found] == pytest.approx(wanted, abs=1e-5)
        assert [one.logprob for one in found] == [one.logprob for one in plain]


def test_several_prompts_give_what_each_gives_alone(model: olc.Model) -> None:
    assert model.choose(PROMPTS, TEXTS) == [model.choose(prompt, TEXTS) for prompt in PROMPTS]
    assert model.choose([], TEXTS) == []
    assert model.choose(("The sky is",), TEXTS, prefix="\n", calibrate_with="") == [
        model.choose("The sky is", TEXTS, prefix="\n", calibrate_with="")
    ]


def test_what_cannot_be_chosen_is_refused(model: olc.Model) -> None:
    for arguments, code in (
        (("x", "blue"), "choices_count"),
        (("x", ["blue"]), "choices_count"),
        (("x", ["blue", "blue"]), "choices_duplicate"),
        ((" x" * model.context, ["blue", "red"]), "context_length_exceeded"),
    ):
        with pytest.raises(olc.OlcError) as caught:
            model.choose(*arguments)  # type: ignore[call-overload]
        assert caught.value.code == code
