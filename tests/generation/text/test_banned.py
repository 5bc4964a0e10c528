"""Banned texts: never in a completion, undone from the token in which they begin, seen by nobody."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from openllama_cli.generation.decode.config import SamplingConfig
from openllama_cli.generation.decode.loop import decode_rows
from openllama_cli.generation.decode.request import Request
from openllama_cli.generation.forward.cache import PrefixCache
from openllama_cli.generation.forward.cuda.graphs import GraphForward
from openllama_cli.generation.forward.lean import LeanForward
from openllama_cli.generation.forward.transformers_forward import TransformersForward
from openllama_cli.generation.forward.weights import from_transformers
from openllama_cli.generation.text.row_text import RowText
from openllama_cli.generation.text.stream import TextStep, stream
from openllama_cli.models.tokenizer.base import Tokenizer
from openllama_cli.models.tokenizer.open import open_tokenizer
from tests.support.models.fakes import FakeForward
from tests.support.models.tiny_models import load_llama

# Few enough that banned texts come about, in all ways: words, parts of them, spaces, bytes of characters.
WORDS = ("a", "b", "ab", "the", " the", " ", "Q", ":", "\n", "é", "動")


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> Tokenizer:
    return open_tokenizer(tiny_model)


@pytest.fixture(scope="module")
def drawn(tokenizer: Tokenizer) -> list[int]:
    """The tokens that the model below gives."""
    return sorted({token for word in WORDS for token in tokenizer.encode(word, bos=False)})


def model(vocabulary: int, drawn: Sequence[int], seed: int) -> Callable[[Sequence[int]], torch.Tensor]:
    """Logits that depend on the last two tokens, high for some of `drawn`."""

    def next_logits(tokens: Sequence[int]) -> torch.Tensor:
        chance = torch.Generator().manual_seed(seed + 31 * tokens[-1] + (tokens[-2] if len(tokens) > 1 else 0))
        logits = torch.full((vocabulary,), -30.0)
        logits[list(drawn)] = 3 * torch.randn(len(drawn), generator=chance)
        return logits

    return next_logits


def by_definition(
    next_logits: Callable[[Sequence[int]], torch.Tensor], tokenizer: Tokenizer, prompt: list[int], config: SamplingConfig
) -> list[int]:
    """Greedy tokens, the whole text read anew after each."""
    before, tokens, never = tokenizer.decode(prompt), list[int](), dict[int, set[int]]()
    while len(tokens) < config.max_tokens:
        logits = next_logits(prompt + tokens)
        logits[list(never.get(len(tokens), ()))] = -torch.inf
        tokens.append(int(logits.argmax()))
        if tokens[-1] in tokenizer.eos_ids:
            return tokens
        text = complete(tokenizer, prompt + tokens)
        # What the prompt has already is not the completion's doing.
        places = [at for ban in config.ban if (at := text.find(ban, max(0, len(before) - len(ban) + 1))) >= 0]
        if not places:
            continue
        # The token in which it begins: the text before it does not reach beyond that place.
        first = next(
            count for count in range(len(tokens)) if len(complete(tokenizer, prompt + tokens[: count + 1])) > min(places)
        )
        # Or the token that began the character with which it begins.
        while first and tokenizer.unfinished(prompt + tokens[:first]) and begins(tokenizer, prompt + tokens[:first], places):
            first -= 1
        never = {place: ids for place, ids in never.items() if place <= first}
        never.setdefault(first, set()).add(tokens[first])
        del tokens[first:]
    return tokens


def complete(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    """The text of ids but for an incomplete character."""
    text = tokenizer.decode(ids)
    return text[: len(text) - tokenizer.unfinished(ids)]


def begins(tokenizer: Tokenizer, ids: list[int], places: list[int]) -> bool:
    """Whether the character that follows these ids is the first of the banned text."""
    return len(complete(tokenizer, ids)) == min(places)


def run(
    tokenizer: Tokenizer,
    next_logits: Callable[[Sequence[int]], torch.Tensor],
    requests: Sequence[Request],
    max_rows: int = 4,
) -> dict[int, list[TextStep]]:
    forward = FakeForward(next_logits, context=400)
    rows: dict[int, list[TextStep]] = {request.row: [] for request in requests}
    for step in stream(lambda asked: decode_rows(forward, asked, max_rows=max_rows), tokenizer, requests):
        rows[step.row].append(step)
    return rows


def ids(steps: Sequence[TextStep]) -> list[int]:
    return [step.scored.token for step in steps if step.scored is not None]


BANS = [("ab",), ("a", "Q:"), (" the", "ba"), ("é",), ("é", "a"), ("the the", "\n"), ("a b",), ("bb", "b")]


@pytest.mark.parametrize("ban", BANS, ids=str)
def test_the_tokens_are_those_of_the_definition(ban: tuple[str, ...], tokenizer: Tokenizer, drawn: list[int]) -> None:
    undone = 0
    for seed in range(12):
        next_logits = model(tokenizer.vocab_size, drawn, 1000 * seed)
        config = SamplingConfig(max_tokens=24, ban=ban)
        prompt = tokenizer.encode(("the a", "Q", "a b")[seed % 3])
        wanted = by_definition(next_logits, tokenizer, prompt, config)
        steps = run(tokenizer, next_logits, [Request(0, prompt, config)])[0]
        assert ids(steps) == wanted
        text = "".join(step.text for step in steps)
        assert not any(banned in text for banned in ban)
        undone += wanted != ids(run(tokenizer, next_logits, [Request(0, prompt, SamplingConfig(max_tokens=24))])[0])
        drafted = run(tokenizer, next_logits, [Request(0, prompt, config, speculate=8)])[0]
        assert ids(drafted) == wanted, "with drafts"
    assert undone, "something was taken back"


@pytest.mark.parametrize("kind", ["lean", "slots", "transformers"])
def test_a_rollback_in_real_caches_leaves_what_a_full_pass_gives(kind: str, tiny_model: Path, tokenizer: Tokenizer) -> None:
    llama = load_llama(tiny_model)
    forwards: dict[str, Callable[[], Any]] = {
        "lean": lambda: LeanForward(from_transformers(llama)),
        "slots": lambda: GraphForward(llama, capture=False),
        "transformers": lambda: TransformersForward(llama, torch.device("cpu")),
    }

    @torch.no_grad()
    def full(tokens: Sequence[int]) -> torch.Tensor:
        return llama(torch.tensor([tokens])).logits[0, -1]

    shots = "Q: What is the largest animal?\nA: The blue whale.\n\n" * 4
    prompts = [tokenizer.encode(text) for text in (shots + "the", shots + "a dog", "Q", shots)]
    free = SamplingConfig(max_tokens=12)
    texts = [tokenizer.decode_continuation(ids, by_definition(full, tokenizer, ids, free)) for ids in prompts]
    # Something from the middle of what each would say, so that it has to be undone.
    ban = tuple({text[3:6] for text in texts if "\ufffd" not in text[3:6] and text[3:6]})
    assert ban
    config = SamplingConfig(max_tokens=12, ban=ban)
    requests = [Request(row, ids, config, speculate=row % 2 * 4) for row, ids in enumerate(prompts)]
    rows: dict[int, list[int]] = {request.row: [] for request in requests}
    loop = partial(decode_rows, forwards[kind](), max_rows=3, prefixes=PrefixCache())
    for step in stream(loop, tokenizer, requests):
        assert step.error is None
        rows[step.row] += [step.scored.token] if step.scored is not None else []
    assert list(rows.values()) == [by_definition(full, tokenizer, ids, config) for ids in prompts]


def test_sampled_rows_do_not_depend_on_their_neighbors(tokenizer: Tokenizer, drawn: list[int]) -> None:
    next_logits = model(tokenizer.vocab_size, drawn, 5)
    config = SamplingConfig(max_tokens=30, temperature=1.0, seed=3, ban=("a", "the"))
    requests = [Request(row, tokenizer.encode("the" * (row + 1)), config, speculate=row % 2 * 4) for row in range(6)]
    together = {row: ids(steps) for row, steps in run(tokenizer, next_logits, requests).items()}
    alone = {row: ids(run(tokenizer, next_logits, [request])[row]) for row, request in enumerate(requests)}
    assert together == alone
    for row, tokens in together.items():
        assert "a" not in tokenizer.decode_continuation(requests[row].tokens, tokens)


def test_no_step_is_taken_back(tokenizer: Tokenizer, drawn: list[int]) -> None:
    """What came out, joined, is the completion; nobody saw a token that is not in it."""
    config = SamplingConfig(max_tokens=30, ban=("ab", "the a"), logprobs=0)
    for seed in range(10):
        next_logits = model(tokenizer.vocab_size, drawn, seed * 77)
        prompt = tokenizer.encode("b")
        steps = run(tokenizer, next_logits, [Request(0, prompt, config)])[0]
        assert "".join(step.text for step in steps) == tokenizer.decode_continuation(prompt, ids(steps))
        assert [step.finish_reason for step in steps[:-1]] == [None] * (len(steps) - 1)


def test_a_stop_string_hides_what_stands_behind_it(tokenizer: Tokenizer) -> None:
    """A banned text in what nobody sees is no reason to go back; one in front of it is."""
    ids = tokenizer.encode("xQ: a", bos=False)

    def verdicts(**options: Any) -> list[Any]:
        text = RowText(tokenizer, [1], SamplingConfig(**options))
        found = []
        for token in ids:
            found.append(text.watch(token))
            if found[-1].reason or found[-1].rollback:
                break
        return found

    assert verdicts(stop=("Q",), ban=("Q:",))[-1].reason == "stop"
    assert verdicts(stop=(":",), ban=("Q",))[-1].rollback


def test_a_text_that_begins_in_the_prompt_does_not_go_on(tokenizer: Tokenizer) -> None:
    prompt = tokenizer.encode("the Q")
    colon = tokenizer.encode("Q:", bos=False)[-1]
    text = RowText(tokenizer, prompt, SamplingConfig(ban=("Q:",)))
    assert text.watch(colon).rollback == 1
    letter = tokenizer.encode("Qa", bos=False)[-1]
    assert text.watch(letter).rollback == 0
    assert text.pop_text() == "a"


def test_where_all_is_banned_the_row_fails(tokenizer: Tokenizer) -> None:
    forward = FakeForward(lambda tokens: torch.zeros(tokenizer.vocab_size), context=50)
    a, b = (tokenizer.encode(text, bos=False)[-1] for text in ("xa", "xb"))

    class Letters:
        def mask(self, vocabulary: int) -> torch.Tensor:
            mask = torch.zeros(vocabulary, dtype=torch.bool)
            mask[[a, b]] = True
            return mask

        def push(self, token: int) -> None: ...

        def take_back(self, count: int) -> None: ...

    request = Request(0, tokenizer.encode("a"), SamplingConfig(ban=("a", "b")), constraints=[Letters()])
    *_, last = stream(lambda asked: decode_rows(forward, asked), tokenizer, [request])
    assert last.error is not None
    assert last.error.code == "no_token_left"
