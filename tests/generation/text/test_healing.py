"""Token healing: what may come first, by brute force over the vocabulary; and what is shown."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from openllama_cli.generation.decode.config import SamplingConfig
from openllama_cli.generation.decode.loop import decode_rows
from openllama_cli.generation.decode.request import Request
from openllama_cli.generation.text.completion import Completion, logprobs_object, usage
from openllama_cli.generation.text.stream import stream
from openllama_cli.models.tokenizer.base import Tokenizer
from openllama_cli.models.tokenizer.open import open_tokenizer
from tests.support.models.fakes import FakeForward

PROMPTS = ["The larg", "the ", "Q: Wh", "a dog\n", "größ", "動", "x", ""]


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> Tokenizer:
    return open_tokenizer(tiny_model)


def random_logits(tokenizer: Tokenizer, seed: int) -> "callable[[Sequence[int]], torch.Tensor]":  # type: ignore[valid-type]
    def next_logits(tokens: Sequence[int]) -> torch.Tensor:
        chance = torch.Generator().manual_seed(seed + 7 * len(tokens) + tokens[-1])
        return torch.randn(tokenizer.vocab_size, generator=chance)

    return next_logits


def completed(tokenizer: Tokenizer, prompt: list[int], seed: int, **options: object) -> Completion:
    forward = FakeForward(random_logits(tokenizer, seed))
    request = Request(0, prompt, SamplingConfig(max_tokens=6, **options))  # type: ignore[arg-type]
    completion = Completion(prompt)
    for step in stream(lambda asked: decode_rows(forward, asked), tokenizer, [request]):
        completion.add(step)
    return completion


@pytest.mark.parametrize("prompt", PROMPTS)
def test_each_token_is_the_best_of_those_whose_text_fits(prompt: str, tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode(prompt)
    for seed in range(4):
        made = completed(tokenizer, ids, seed, heal=True, logprobs=0)
        count = made.healed.tokens
        if len(ids) == 1:
            assert (made.prompt, count) == (ids, 0)
            continue
        assert count >= 1
        assert list(made.prompt) == ids[:-count]
        tokens = [entry.token for entry in made.scored]
        for place, token in enumerate(tokens):
            logits = random_logits(tokenizer, seed)(ids[:-count] + tokens[:place])
            fitting = [one for one in range(tokenizer.vocab_size) if fits(tokenizer, ids[-count:], [*tokens[:place], one])]
            assert token == max(fitting, key=lambda one: float(logits[one]))
            if token in tokenizer.eos_ids:
                break
        # What is shown begins behind the prompt.
        assert tokenizer.decode(ids[:-count] + tokens) == prompt + made.text
        offsets = logprobs_object(made, tokenizer, echo=None)["text_offset"]
        assert offsets == sorted(offsets)
        assert offsets[0] == 0
        assert usage([made])["prompt_tokens"] == len(ids)


def fits(tokenizer: Tokenizer, last: list[int], tokens: list[int]) -> bool:
    """Whether the bytes of tokens begin with those of `last`, or are a beginning of them; all do once they have."""

    def data(token: int) -> bytes:
        if token in tokenizer.special_ids:
            return b""
        known = tokenizer.token_bytes(token)
        return tokenizer.text(token).encode() if known is None else known

    wanted, before = b"".join(map(data, last)), b"".join(map(data, tokens[:-1]))
    if before.startswith(wanted):
        return True
    joined = before + data(tokens[-1])
    return bool(data(tokens[-1])) and (joined.startswith(wanted) or wanted.startswith(joined))


@pytest.mark.parametrize(
    ("prompt", "word"),
    [("The larg", " larg"), ("the ", " "), ("Q: Wh", " Wh"), ("a dog\n", "\n"), ("a\nwhal", "whal"), ("x1", "1")],
)
def test_what_is_backed_up_is_the_last_word(prompt: str, word: str, tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode(prompt)
    healed = completed(tokenizer, ids, 1, heal=True).healed
    assert tokenizer.decode_continuation(ids[: len(ids) - healed.tokens], ids[len(ids) - healed.tokens :]) == word
    assert healed.characters == len(word)


def test_a_text_that_is_banned_is_undone_in_a_healed_word(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("The larg")
    for seed in range(6):
        plain = completed(tokenizer, ids, seed, heal=True)
        if not plain.text.strip("\ufffd") or "\ufffd" in plain.text[:2]:
            continue
        banned = completed(tokenizer, ids, seed, heal=True, ban=(plain.text[:2],))
        assert plain.text[:2] not in banned.text


def test_a_text_that_is_banned_may_stand_in_the_word_that_is_drawn_anew(tokenizer: Tokenizer) -> None:
    """It is the prompt's own, and in any text of these tokens."""
    ids = tokenizer.encode("The larg")
    for seed in range(6):
        plain = completed(tokenizer, ids, seed, heal=True)
        for ban in ("larg", "e l", "a"):
            made = completed(tokenizer, ids, seed, heal=True, ban=(ban,))
            assert ban not in made.text
            assert ban in plain.text or made.scored == plain.scored
