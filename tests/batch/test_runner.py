"""The runner: what may run beside what, memory that runs out, and results that show none of it."""

import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from openllama_cli.batch.input.rows import Row, RowError
from openllama_cli.batch.output.results import Result
from openllama_cli.batch.runner import Runner
from openllama_cli.errors import OlcError
from openllama_cli.generation.batch_size import auto_batch_size
from openllama_cli.generation.choices.config import Choices
from openllama_cli.generation.decode.config import SamplingConfig
from openllama_cli.generation.decode.loop import decode_rows
from openllama_cli.generation.decode.request import Request, Step
from openllama_cli.generation.forward.cache import PrefixCache
from openllama_cli.generation.session import make_engine
from openllama_cli.generation.text.stream import Engine
from openllama_cli.models.tokenizer.base import Tokenizer
from openllama_cli.models.tokenizer.open import open_tokenizer
from tests.support.batches import Kept
from tests.support.models.fakes import FakeForward, counting
from tests.support.models.tiny_models import VOCAB

CONTEXT = 256


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> Tokenizer:
    return open_tokenizer(tiny_model)


def runner(engine: Callable[[int], Engine], tokenizer: Tokenizer, max_rows: int = 4, **options: Any) -> tuple[Runner, Kept]:
    kept = Kept()
    return Runner(engine, tokenizer, CONTEXT, VOCAB, "tiny", kept.append, max_rows, **options), kept


def run(rows: Iterable[Row], engine: Callable[[int], Engine], tokenizer: Tokenizer, max_rows: int = 4, **options: Any) -> Kept:
    work, kept = runner(engine, tokenizer, max_rows, **options)
    for _ in work.run(rows):
        pass
    assert (work.progress.rows, work.progress.failed) == (len(kept.results), len(kept.failed))
    return kept


_ROW_FIELDS = ("own_seed", "fixed_length", "openai", "echo", "samples", "best_of", "tokens", "custom_id", "carried")


def row(index: int, prompt: str = "the quick", **options: Any) -> Row:
    fields = {name: options.pop(name) for name in _ROW_FIELDS if name in options}
    fields.setdefault("custom_id", f"row-{index}")
    return Row(
        index, prompt=None if "tokens" in fields else prompt, sampling=SamplingConfig(**{"max_tokens": 5, **options}), **fields
    )


def fake_engine(max_rows: int) -> Engine:
    return lambda requests: decode_rows(FakeForward(counting(VOCAB), CONTEXT), requests, max_rows=max_rows)


class Loaded:
    """What an engine needs of a loaded model."""

    input_device = torch.device("cpu")
    quantized = None

    def __init__(self, folder: Path) -> None:
        from transformers import LlamaForCausalLM

        self.model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def loaded(tiny_model: Path) -> Any:
    return Loaded(tiny_model)


def real_engine(loaded: Any, *, prefixes: bool) -> Callable[[int], Engine]:
    return lambda rows: make_engine(loaded, max_rows=rows, prefixes=PrefixCache() if prefixes else None)


def many_rows() -> list[Row]:
    rng = random.Random(3)
    words = ["the", "quick", "brown", "fox", "jumps", "over", "lazy", "dog", "does", "not", "mind", "water", "boils"]
    shots = "Q: What is the largest animal?\nA: The blue whale.\n\n" * 3
    rows = []
    for index in range(40):
        prompt = (shots if index % 3 else "") + " ".join(rng.choices(words, k=rng.randrange(0, 25)))
        options: dict[str, Any] = {"max_tokens": rng.randrange(0, 14)}
        if index % 2:
            options |= {"temperature": 0.9, "top_p": 0.95, "seed": index % 5}
        rows.append(row(index, prompt, own_seed=index % 4 == 1, **options))
    return rows


def test_results_are_the_same_bytes_at_every_batch_size_with_and_without_prefixes(loaded: Any, tokenizer: Tokenizer) -> None:
    alone = run(many_rows(), real_engine(loaded, prefixes=False), tokenizer, max_rows=1).lines
    assert len(alone) == 40
    for max_rows, prefixes in ((4, True), (16, False), (16, True)):
        assert run(many_rows(), real_engine(loaded, prefixes=prefixes), tokenizer, max_rows).lines == alone
    assert run(reversed(many_rows()), real_engine(loaded, prefixes=True), tokenizer, 5).lines == alone


def test_a_row_with_a_seed_of_its_own_draws_the_same_wherever_it_stands(loaded: Any, tokenizer: Tokenizer) -> None:
    engine = real_engine(loaded, prefixes=False)
    sampled = {"temperature": 1.0, "seed": 7, "max_tokens": 12}
    kept = run([row(0, **sampled, own_seed=True), row(1, **sampled, own_seed=True), row(2, **sampled)], engine, tokenizer)
    texts = [kept.document(index)["text"] for index in range(3)]
    assert texts[0] == texts[1] != texts[2]


def test_bad_rows_become_error_rows_and_spare_their_neighbors(tokenizer: Tokenizer) -> None:
    rows = [
        row(0),
        Row(1, "one", error=RowError("invalid_json", "line 2 is not JSON")),
        row(2, "x" * 3 * CONTEXT),
        row(3, "bad \udcff"),
        row(4, max_tokens=CONTEXT),
        row(5),
        row(6, openai=True, tokens=(1, VOCAB)),
        row(7, openai=True, tokens=(1, 10**30)),
        row(8, openai=True, tokens=(1, VOCAB - 1)),
    ]
    kept = run(rows, fake_engine, tokenizer)
    assert kept.codes == {
        0: None,
        1: "invalid_json",
        2: "context_length_exceeded",
        3: "invalid_unicode",
        4: "context_length_exceeded",
        5: None,
        6: "token_id_out_of_range",
        7: "token_id_out_of_range",
        8: None,
    }
    assert kept.document(0)["text"] == kept.document(5)["text"]
    assert kept.document(1)["error"] == {"code": "invalid_json", "message": "line 2 is not JSON"}
    assert str(CONTEXT) in kept.document(4)["error"]["message"]


def test_openai_rows_are_answered_in_openais_shape(tokenizer: Tokenizer) -> None:
    rows = [
        row(0, openai=True, custom_id="a", echo=True, logprobs=1),
        Row(1, "b", openai=True, error=RowError("unsupported_option", "n is 2")),
    ]
    kept = run(rows, fake_engine, tokenizer)
    good, bad = kept.document(0), kept.document(1)
    assert set(good) == set(bad) == {"id", "custom_id", "response", "error"}
    assert good["response"]["status_code"] == 200
    choice = good["response"]["body"]["choices"][0]
    assert choice["text"].startswith("the quick")
    assert len(choice["logprobs"]["tokens"]) == len(tokenizer.encode("the quick")) + 5
    assert bad["response"]["status_code"] == 400
    assert bad["error"] == {"code": "unsupported_option", "message": "n is 2"}


@pytest.mark.parametrize("openai", [True, False])
def test_every_scored_token_is_listed_the_eos_that_ends_a_row_too(tokenizer: Tokenizer, openai: bool) -> None:
    """What lm-evaluation-harness sends, and counts on: len(prompt) + max_tokens entries. After id 1 the model says 2, EOS."""
    kept = run([row(0, tokens=(1, 9, 1), max_tokens=1, echo=True, logprobs=1, openai=openai)], fake_engine, tokenizer)
    document = kept.document(0)
    answer = document["response"]["body"]["choices"][0] if openai else document
    assert answer["finish_reason"] == "stop"
    assert answer["logprobs"]["tokens"][-1] == tokenizer.piece(2)
    assert {name: len(entries) for name, entries in answer["logprobs"].items()} == dict.fromkeys(answer["logprobs"], 4)
    assert answer["logprobs"]["text_offset"][-1] == len(answer["text"])


def test_a_prompt_of_ids_is_echoed_as_its_text(tokenizer: Tokenizer) -> None:
    ids = tuple(tokenizer.encode("the quick größer"))
    options = {"echo": True, "logprobs": 0, "openai": True, "max_tokens": 3}
    kept = run([row(0, "the quick größer", **options), row(1, tokens=ids, **options)], fake_engine, tokenizer)
    by_text, by_ids = (kept.document(index)["response"]["body"]["choices"][0] for index in range(2))
    assert by_ids["text"].startswith("the quick größer")
    assert by_ids == by_text


@pytest.mark.parametrize("max_tokens", [0, 2])
def test_a_character_that_ids_leave_unfinished_is_written_once(tokenizer: Tokenizer, max_tokens: int) -> None:
    beginning = (1, next(token for token in range(VOCAB) if tokenizer.piece(token) == "<0xE6>"))
    kept = run([row(0, tokens=beginning, echo=True, logprobs=0, max_tokens=max_tokens)], fake_engine, tokenizer)
    document = kept.document(0)
    made = [beginning[-1] + 1 + step for step in range(max_tokens)]
    assert document["text"] == tokenizer.decode([*beginning, *made])


def test_a_plain_row_has_the_logprobs_that_it_asked_for_and_what_it_carries(tokenizer: Tokenizer) -> None:
    rows = [row(0, logprobs=2, carried={"label": [1], "input_text": "x"}), row(1)]
    rows.append(Row(2, "c", error=RowError("bad_option", "x"), carried={"label": 3}))
    kept = run(rows, fake_engine, tokenizer)
    first = kept.document(0)
    assert list(first)[-3:] == ["logprobs", "label", "input_text"]
    assert [len(top) for top in first["logprobs"]["top_logprobs"]] == [2] * 5
    assert set(kept.document(1)) == {"custom_id", "index", "prompt", "text", "finish_reason", "usage", "error"}
    assert kept.document(2)["label"] == 3


def test_a_length_that_nobody_asked_for_ends_where_the_context_does(tokenizer: Tokenizer) -> None:
    ids = tuple(range(5, 5 + CONTEXT - 3))
    made = {"tokens": ids, "max_tokens": 64}
    rows = [row(0, **made, fixed_length=False), row(1, **made), row(2, tokens=(*ids, 4, 4, 4), fixed_length=False)]
    kept = run(rows, fake_engine, tokenizer)
    assert (kept.document(0)["finish_reason"], kept.document(0)["usage"]["completion_tokens"]) == ("length", 3)
    assert kept.failed == {1: "context_length_exceeded", 2: "context_length_exceeded"}


def failing_engine(fits: int, huge: int | None = None) -> Callable[[int], Engine]:
    """Runs out of memory with more than `fits` rows, and whenever the row `huge` is among them."""

    def make(max_rows: int) -> Engine:
        def run(requests: Iterable[Request]) -> Iterator[Step]:
            rows: list[int] = []

            def counted() -> Iterator[Request]:
                for request in requests:
                    rows.append(request.row)
                    yield request

            for event in decode_rows(FakeForward(counting(VOCAB), CONTEXT), counted(), max_rows=max_rows):
                if min(len(rows), max_rows) > fits or huge in rows[-max_rows:]:
                    raise torch.OutOfMemoryError("CUDA out of memory")
                yield event

        return run

    return make


def test_memory_that_runs_out_halves_the_batch_and_loses_nothing(tokenizer: Tokenizer) -> None:
    notices: list[str] = []
    rows = [row(index, "the quick " * (index % 5)) for index in range(30)]
    kept = run(rows, failing_engine(fits=3), tokenizer, max_rows=16, notice=notices.append)
    assert kept.lines == run(rows, fake_engine, tokenizer).lines
    assert [notice.split()[-1] for notice in notices] == ["8", "4", "2"]


def test_a_row_that_does_not_fit_even_alone_is_an_error_row(tokenizer: Tokenizer) -> None:
    rows = [row(index, "the quick " * (20 if index == 3 else 1)) for index in range(8)]
    kept = run(rows, failing_engine(fits=8, huge=3), tokenizer, max_rows=4)
    assert kept.failed == {3: "out_of_memory"}
    assert len(kept.results) == 8


def test_other_errors_are_not_taken_for_memory(tokenizer: Tokenizer) -> None:
    def broken(max_rows: int) -> Engine:
        def run(requests: Iterable[Request]) -> Iterator[Step]:
            next(iter(requests))
            raise RuntimeError("expected all tensors to be on the same device")
            yield

        return run

    with pytest.raises(RuntimeError, match="same device"):
        run([row(0)], broken, tokenizer)


def test_stopping_finishes_the_rows_in_flight_and_begins_no_more(tokenizer: Tokenizer) -> None:
    asked = 0

    def stopping() -> bool:
        nonlocal asked
        asked += 1
        return asked > 5

    kept = run([row(index) for index in range(50)], fake_engine, tokenizer, max_rows=4, stopping=stopping)
    assert len(kept.results) == 5


def test_rows_are_read_a_window_at_a_time(tokenizer: Tokenizer) -> None:
    read = 0

    def rows() -> Iterator[Row]:
        nonlocal read
        for index in range(10_000):
            read += 1
            yield row(index)

    work, kept = runner(fake_engine, tokenizer)
    for progress in work.run(rows()):
        if progress.rows == 10:
            break
    assert read <= 300
    assert len(kept.results) == 10


def test_a_full_disk_ends_the_run_as_it_is(tokenizer: Tokenizer) -> None:
    def full(result: Result) -> None:
        raise OlcError("the disk is full", "free some space", code="disk_full")

    work = Runner(fake_engine, tokenizer, CONTEXT, VOCAB, "tiny", full, 4)
    with pytest.raises(OlcError, match="disk is full"):
        list(work.run([row(0)]))


@pytest.mark.parametrize(
    ("free_gb", "positions", "on_cpu", "rows"),
    [
        (24, 2048, True, 16),
        (12, 2048, True, 10),
        (1e-8, 2048, True, 1),
        (24, 100, False, 64),
        (3, 100, False, 12),  # 16 slots of 256 positions, four of them for known prefixes
        (1, 100, False, 7),
        (1, 255, False, 7),
        (1, 256, False, 3),
        (1e-8, 256, False, 1),
    ],
)
def test_as_many_rows_as_fit(free_gb: float, positions: int, on_cpu: bool, rows: int) -> None:
    per_position = 2 * 26 * 32 * 100 * 2  # OpenLLaMA-3B in bfloat16: 26 layers, 32 heads of 100
    assert auto_batch_size(int(free_gb * 1e9), per_position, positions, on_cpu=on_cpu) == rows


def choosing_rows(count: int, neutral: str = "N/A") -> list[Row]:
    choices = Choices(("jumps", "jumps over", "sits"), neutral=neutral)
    return [replace(row(index, f"the quick brown fox {index}"), choices=choices) for index in range(count)]


def test_a_neutral_prompt_runs_once_before_the_rows_that_need_it(loaded: Any, tokenizer: Tokenizer) -> None:
    begun: list[int] = []

    def engine(max_rows: int) -> Engine:
        made = real_engine(loaded, prefixes=True)(max_rows)

        def noted(requests: Iterable[Request | None]) -> Iterator[Step]:
            def seen() -> Iterator[Request | None]:
                for request in requests:
                    assert request is not None
                    begun.append(request.row)
                    yield request

            return made(seen())

        return noted

    rows = [*choosing_rows(3), *(replace(one, index=one.index + 3) for one in choosing_rows(3, "nothing"))]
    kept = run([*rows, row(6, "completed")], engine, tokenizer)
    assert not kept.failed
    assert sum(number < 0 for number in begun) == 2
    assert sorted(number for number in begun if number >= 0) == list(range(7))
    assert kept.lines == run([row(6, "completed"), *reversed(rows)], real_engine(loaded, prefixes=False), tokenizer, 1).lines


def test_a_row_whose_neutral_prompt_ran_out_of_memory_is_run_again(loaded: Any, tokenizer: Tokenizer) -> None:
    failing = [True]

    def engine(max_rows: int) -> Engine:
        made = real_engine(loaded, prefixes=False)(max_rows)

        def once(requests: Iterable[Request | None]) -> Iterator[Step]:
            def checked() -> Iterator[Request | None]:
                for request in requests:
                    if request is not None and request.row < 0 and failing.pop():
                        failing.append(False)
                        raise torch.OutOfMemoryError
                    yield request
                    failing[:] = [False]

            return made(checked())

        return once

    kept = run(choosing_rows(3), engine, tokenizer)
    assert kept.lines == run(choosing_rows(3), real_engine(loaded, prefixes=False), tokenizer).lines


def sampled_rows() -> list[Row]:
    rows = []
    for index in range(9):
        options: dict[str, Any] = {
            "temperature": 1.0,
            "max_tokens": 4 + index % 3,
            "seed": index % 4,
            "own_seed": index % 4 > 1,
        }
        samples = index % 3 + 1
        rows.append(row(index, "the quick brown " * index, samples=samples, best_of=samples + index % 2, **options))
    return rows


def test_samples_of_a_row_differ_and_do_not_depend_on_the_batch_size(loaded: Any, tokenizer: Tokenizer) -> None:
    alone = run(sampled_rows(), real_engine(loaded, prefixes=False), tokenizer, max_rows=1)
    for max_rows, prefixes in ((4, False), (16, True)):
        assert run(sampled_rows(), real_engine(loaded, prefixes=prefixes), tokenizer, max_rows).lines == alone.lines
    documents = [alone.document(index) for index in range(9)]
    for document in documents:
        count = document["index"] % 3 + 1
        texts = [sample["text"] for sample in document.get("samples", [document])]
        assert (len(texts), texts[0]) == (count, document["text"])
        assert len(set(texts)) == count
        assert document["usage"]["completion_tokens"] >= count


def test_a_sample_that_fails_fails_its_row_alone(tokenizer: Tokenizer) -> None:
    def broken(tokens: Any) -> torch.Tensor:
        logits = counting(VOCAB)(tokens)
        return logits / 0 if tokens[-1] == 77 else logits

    def engine(max_rows: int) -> Engine:
        return lambda requests: decode_rows(FakeForward(broken, CONTEXT), requests, max_rows=max_rows)

    rows = [
        row(0, tokens=(1, 75), samples=4, best_of=4, openai=True),
        row(1, tokens=(1, 20), samples=2, best_of=2, openai=True),
    ]
    kept = run(rows, engine, tokenizer)
    assert sorted(kept.failed) == [0]
    choices = kept.document(1)["response"]["body"]["choices"]
    assert [choice["index"] for choice in choices] == [0, 1]
