"""Prompts scored whole, in windows and in branches, against full forward passes in float64."""

import copy
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from openllama_cli.errors import UsageError
from openllama_cli.generation.decode import prefill as prefill_module
from openllama_cli.generation.decode.config import SamplingConfig
from openllama_cli.generation.decode.loop import decode_rows
from openllama_cli.generation.decode.prefill import MOST_NODES, tree
from openllama_cli.generation.decode.request import Request, Scored, score_each
from openllama_cli.generation.decode.windows import windows
from openllama_cli.generation.forward.cache import PrefixCache
from openllama_cli.generation.forward.cuda.graphs import GraphForward
from openllama_cli.generation.forward.lean import LeanForward
from openllama_cli.generation.forward.transformers_forward import Forward, TransformersForward
from openllama_cli.generation.forward.weights import from_transformers
from tests.support.models.fakes import FakeForward, counting
from tests.support.models.tiny_models import load_llama, write_tiny_llama

CONTEXT = 384
NOTHING = SamplingConfig(max_tokens=0, logprobs=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_llama(tmp_path_factory.mktemp("tiny") / "model", context=CONTEXT, heads=4, kv_heads=2)


@pytest.fixture(scope="module")
def model(folder: Path) -> Any:
    return load_llama(folder)


@pytest.fixture(scope="module")
def exact(model: Any) -> Any:
    return copy.deepcopy(model).double()


@pytest.fixture(params=["transformers", "lean", "slots"])
def forward(request: pytest.FixtureRequest, model: Any) -> Forward:
    if request.param == "slots":
        return GraphForward(model, capture=False)
    lean = request.param == "lean"
    return LeanForward(from_transformers(model)) if lean else TransformersForward(model, torch.device("cpu"))


def text(length: int, seed: int = 0) -> list[int]:
    rng = random.Random(seed)
    return [1, *(rng.randrange(3, 400) for _ in range(length - 1))]


def full_pass(exact: Any, tokens: list[int]) -> torch.Tensor:
    """[n, vocab] log-probabilities; row i predicts token i + 1."""
    with torch.no_grad():
        logprobs: torch.Tensor = exact(torch.tensor([tokens])).logits[0].log_softmax(-1)
    return logprobs


def run(forward: Forward, *requests: Request, prefixes: PrefixCache | None = None) -> dict[int, Any]:
    """What each row came to: its scored prompt, or its branches, or the code of its error."""
    rows: dict[int, Any] = {}
    for step in decode_rows(forward, requests, prefixes=prefixes):
        found = step.branches or step.prompt or (step.error.code if step.error is not None else None)
        rows[step.row] = found or rows.get(step.row)
    return rows


@pytest.mark.parametrize(
    ("length", "unscored"), [(1, 0), (2, 0), (64, 0), (300, 0), (300, 1), (300, 65), (300, 299), (70, 200)]
)
def test_a_prompt_is_scored_as_by_a_full_pass(forward: Forward, exact: Any, length: int, unscored: int) -> None:
    tokens = text(length)
    scored = run(forward, Request(0, tokens, NOTHING, score=True, unscored=unscored))[0]
    unscored = min(unscored, length)
    wanted = full_pass(exact, tokens)
    assert [one.token for one in scored] == tokens
    for place, one in enumerate(scored):
        if place < max(unscored, 1):
            assert one == Scored(tokens[place])
            continue
        row = wanted[place - 1]
        assert one.logprob == pytest.approx(float(row[tokens[place]]), abs=1e-4)
        assert one.rank == int((row > row[tokens[place]]).sum()) + 1
        assert one.top[0][0] == int(row.argmax())


def test_texts_with_a_common_context_run_it_once_and_get_the_same_bits(model: Any) -> None:
    lean = LeanForward(from_transformers(model))
    shared = text(150)
    requests = [Request(row, shared + text(40, row + 1), NOTHING, score=True, unscored=150) for row in range(3)]
    assert run(lean, *requests, prefixes=PrefixCache()) == run(lean, *requests)
    fake = FakeForward(counting(401))
    fake.context = CONTEXT
    run(fake, *requests, prefixes=PrefixCache())
    assert sum(len(part) for part in fake.prefilled) == 190 + 2 * (190 - 128)


@pytest.mark.parametrize(
    ("length", "stride", "lead", "unscored"), [(385, 1, 1, 0), (1000, 192, 1, 0), (900, 382, 1, 500), (800, 100, 0, 3)]
)
def test_a_long_text_is_scored_once_with_the_most_context(
    forward: Forward, exact: Any, length: int, stride: int, lead: int, unscored: int
) -> None:
    tokens = text(length)
    request = Request(0, tokens, NOTHING, score=True, stride=stride, lead=lead, unscored=unscored)
    scored = run(forward, request)[0]
    assert [one.token for one in scored] == tokens
    known: dict[int, float] = {}
    for begin, end, first in windows(length, CONTEXT, stride, lead):
        part = tokens[:end] if begin == 0 else tokens[:lead] + tokens[begin:end]
        logprobs = full_pass(exact, part)
        for place in range(max(first, 1), end):
            assert place not in known, "scored twice"
            known[place] = float(logprobs[place - end + len(part) - 1, tokens[place]])
    assert sorted(known) == list(range(1, length))
    for place, one in enumerate(scored):
        assert one.logprob == (pytest.approx(known[place], abs=1e-4) if place >= max(unscored, 1) else None)


def test_windows_leave_no_token_out_and_keep_the_context() -> None:
    for length in (10, 11, 25, 100):
        for stride in range(1, 9):
            found = windows(length, 10, stride, 1)
            assert [window.scored for window in found] == [0, *(window.end for window in found[:-1])]
            assert found[-1].end == length
            assert all(window.end - window.begin == 9 for window in found[1:])
            assert all(window.begin < window.scored for window in found[1:]), "without a token before it"


@pytest.mark.parametrize("stride", [0, -1, CONTEXT - 1, 10**9])
def test_a_stride_that_leaves_no_context_is_refused(stride: int) -> None:
    with pytest.raises(UsageError) as caught:
        windows(1000, CONTEXT, stride, 1)
    assert caught.value.code == "stride_out_of_range"


BRANCHES = [[5], [6, 7], [6, 8, 9], [6, 8, 10], [5, 5, 5, 5], [11, 6, 8], [6]]


@pytest.mark.parametrize("length", [1, 63, 64, 200])
@pytest.mark.parametrize("branches", [BRANCHES, [[5], [9]], [[7, 8]]], ids=len)
def test_branches_are_scored_as_by_a_full_pass_over_prompt_and_branch(
    forward: Forward, exact: Any, length: int, branches: list[list[int]]
) -> None:
    tokens = text(length)
    scored = run(forward, Request(0, tokens, NOTHING, branches=branches))[0]
    assert [[one.token for one in branch] for branch in scored] == branches
    for branch, found in zip(branches, scored, strict=True):
        wanted = full_pass(exact, [*tokens, *branch])
        for place, one in enumerate(found):
            assert one.logprob == pytest.approx(float(wanted[length - 1 + place, one.token]), abs=1e-4)


def test_branches_cost_one_prefill_and_one_pass_and_share_prefixes() -> None:
    fake = FakeForward(counting())
    requests = [Request(row, [*range(70)], NOTHING, branches=[[1, 2, 3], [1, 2, 4], [5]]) for row in range(2)]
    fake.context = 100
    run(fake, *requests, prefixes=PrefixCache())
    assert [len(part) for part in fake.prefilled] == [70, 70 - 64]
    assert fake.branched == [[1, 2], [1, 2]]


def test_many_branches_run_in_groups(model: Any, exact: Any) -> None:
    branches = [[3 + number % 300, 4 + number % 7, 5] for number in range(MOST_NODES)]
    tokens = text(30)
    scored = run(LeanForward(from_transformers(model)), Request(0, tokens, NOTHING, branches=branches))[0]
    for number in (0, 100, MOST_NODES - 1):
        wanted = full_pass(exact, [*tokens, *branches[number]])[29:32].gather(1, torch.tensor(branches[number])[:, None])
        assert [one.logprob for one in scored[number]] == pytest.approx(wanted[:, 0].tolist(), abs=1e-4)


def test_a_long_branch_runs_in_parts_and_leaves_the_prompt_as_it_was(forward: Forward, exact: Any, monkeypatch: Any) -> None:
    """A pass over all of it would hold logits without bound."""
    most, branch = prefill_module.MOST_NODES, forward.branch
    monkeypatch.setattr(prefill_module, "MOST_NODES", 8)
    nodes: list[int] = []
    monkeypatch.setattr(forward, "branch", lambda tokens, *rest: (nodes.append(len(tokens)), branch(tokens, *rest))[1])
    branches, tokens = [[5, 6], text(30, seed=1), [5, 7, 8]], text(70)
    scored = run(forward, Request(0, tokens, NOTHING, branches=branches))[0]
    assert max(nodes) <= 8 < most
    for branch_tokens, found in zip(branches, scored, strict=True):
        wanted = full_pass(exact, [*tokens, *branch_tokens])[69:-1].gather(1, torch.tensor(branch_tokens)[:, None])
        assert [one.logprob for one in found] == pytest.approx(wanted[:, 0].tolist(), abs=1e-4)


def test_a_row_that_is_canceled_ends_between_two_passes_over_its_branches() -> None:
    fake = FakeForward(counting())
    fake.context = 1000
    branches = [[1, 2, number % 16, number // 16 % 16, number // 256, 3] for number in range(1000)]
    request = Request(0, [*range(8)], NOTHING, branches=branches, canceled=lambda: len(fake.branched) >= 2)
    assert run(fake, request)[0] == "canceled"
    assert len(fake.branched) == 2


def test_a_tree_merges_common_beginnings() -> None:
    assert tree(BRANCHES) == (
        [6, 8, 5, 5, 5, 11, 6],
        [-1, 0, -1, 2, 3, -1, 5],
        [[], [0], [0, 1], [0, 1], [2, 3, 4], [5, 6], []],
    )


def test_branches_have_to_fit_into_the_context(model: Any) -> None:
    lean = LeanForward(from_transformers(model))
    longest = CONTEXT - 3
    assert run(lean, Request(0, text(longest), NOTHING, branches=[[5], [5, 6, 7]]))[0] != "context_length_exceeded"
    assert run(lean, Request(0, text(longest + 1), NOTHING, branches=[[5], [5, 6, 7]]))[0] == "context_length_exceeded"


def test_ranks_and_alternatives_leave_out_what_is_never_drawn() -> None:
    logprobs = torch.tensor([[0.1, 0.5, 0.25, 0.15]]).log()
    (found,) = score_each([2], logprobs, 2, banned=torch.tensor([1]))
    assert (found.rank, [token for token, _ in found.top]) == (1, [2, 3])
    (found,) = score_each([2], logprobs, 2)
    assert (found.rank, [token for token, _ in found.top]) == (2, [1, 2])
    assert found.entropy == pytest.approx(1.7427, abs=1e-4)
