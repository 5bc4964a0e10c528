"""A row's prompt through the model: completed from a known prefix, scored, scored in windows, or branched into choices.

Shapes: n = tokens of a part of the prompt.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch

from openllama_cli.errors import GenerationError
from openllama_cli.generation.decode.request import Request, Scored, score_each
from openllama_cli.generation.decode.sampling import log_probabilities, require_finite
from openllama_cli.generation.decode.windows import windows
from openllama_cli.generation.forward.cache import KVCache, PrefixCache
from openllama_cli.generation.forward.transformers_forward import Forward

# Chunks of the prefill grid whose logits are scored together: enough for one call, little memory (32 MB at 256 tokens).
_SCORED_CHUNKS = 4
# Nodes of a tree of branches that run in one pass: bounds the logits and the cache.
MOST_NODES = 256


def over_context(length: int, context: int) -> GenerationError:
    """The error of a prompt that cannot run: empty, or longer than the context."""
    if length == 0:
        return GenerationError("the prompt has no tokens", "start it with BOS", code="empty_prompt")
    return GenerationError(
        f"the prompt has {length} tokens, but the model's context is {context}",
        f"shorten the prompt by at least {length - context + 1} tokens",
        code="context_length_exceeded",
    )


def canceled() -> GenerationError:
    """The error of a row that nobody waits for any more."""
    return GenerationError("the row was canceled", "send it again", code="canceled")


def prefill(
    forward: Forward, request: Request, cache: KVCache, prefixes: PrefixCache | None
) -> tuple[torch.Tensor, tuple[Scored, ...]]:
    """Run a prompt, except for a prefix that an earlier row has in its KV cache, and score it if that is asked for.

    Returns the last token's [vocab] logits, and an entry per token where it is scored. Raises GenerationError if logits that
    are scored are not finite.
    """
    tokens = request.tokens
    # A token's logits predict the next one. Whole chunks of the grid: parts of one would be added in another order.
    quiet = len(tokens) - 1
    if request.score:
        quiet = min(max(request.unscored - 1, 0), quiet) // cache.chunk * cache.chunk
    known = 0 if prefixes is None else prefixes.restore(tokens, cache, quiet)
    if request.score:
        if quiet > known:
            forward.prefill(tokens[known:quiet], cache, prompt=len(tokens))
        logits, scored = _score_rest(forward, request, tokens, cache)
        scored[: request.unscored] = [Scored(token) for token in tokens[: request.unscored]]
    else:
        logits, scored = forward.prefill(tokens[known:], cache)[-1], []
    if prefixes is not None:
        prefixes.remember(tokens, cache)
    return logits, tuple(scored)


def _score_rest(forward: Forward, request: Request, tokens: Sequence[int], cache: KVCache) -> tuple[torch.Tensor, list[Scored]]:
    """Run a prompt from where `cache` ends, and score the tokens after that; those up to it have no scores.

    Some chunks of the prefill grid at a time: the logits of all would take 128 KB a token.
    """
    size = cache.chunk * _SCORED_CHUNKS
    scored = [Scored(token) for token in tokens[: cache.length + 1]]
    while True:
        start = cache.length
        end = min(len(tokens), (start // size + 1) * size)
        logits = forward.prefill(tokens[start:end], cache, every=True, prompt=len(tokens))  # [n, vocab]
        require_finite(logits)
        scored += score_logits(request, tokens[start + 1 : end + 1], logits)
        if end == len(tokens):
            return logits[-1], scored


def score_logits(request: Request, tokens: Sequence[int], logits: torch.Tensor) -> list[Scored]:
    """Score tokens by the logits that predict them: [n or more, vocab], a row a token."""
    if not tokens:
        return []
    logits = logits[: len(tokens)]
    return score_each(tokens, log_probabilities(logits), request.sampling.logprobs or 0, request.banned(logits))


def score_in_windows(forward: Forward, request: Request, stride: int) -> tuple[Scored, ...]:
    """Score a prompt of any length. Raises GenerationError if logits are not finite, UsageError as `windows`."""
    tokens, lead = list(request.tokens), request.lead
    scored = [Scored(token) for token in tokens]
    for begin, end, first in windows(len(tokens), forward.context, stride, lead):
        if end <= request.unscored:
            continue
        part = tokens[:end] if begin == 0 else tokens[:lead] + tokens[begin:end]
        offset = end - len(part)  # From a place in the part, behind the lead, to one in the prompt.
        first = max(first, request.unscored)
        cache = forward.new_cache(len(part))
        quiet = max(first - offset - 1, 0) // cache.chunk * cache.chunk  # Whole chunks, as in `prefill`.
        if quiet:
            forward.prefill(part[:quiet], cache, prompt=len(part))
        scored[first:end] = _score_rest(forward, request, part, cache)[1][first - offset :]
    return tuple(scored)


class Tree(NamedTuple):
    """Branches with their common beginnings merged. tokens: of each node. parents: the node before it, -1 for the prompt.
    paths: for each branch the nodes that predict its second token, its third, …"""

    tokens: list[int]
    parents: list[int]
    paths: list[list[int]]


def tree(branches: Sequence[Sequence[int]]) -> Tree:
    """Merge branches. The last token of a branch predicts nothing, so it is a node only where another branch goes on."""
    nodes: dict[tuple[int, int], int] = {}
    paths = []
    for branch in branches:
        parent, path = -1, []
        for token in branch[:-1]:
            parent = nodes.setdefault((parent, token), len(nodes))
            path.append(parent)
        paths.append(path)
    return Tree([token for _, token in nodes], [parent for parent, _ in nodes], paths)


def branch_nodes(branches: Sequence[Sequence[int]]) -> int:
    """Positions of the cache that branches take, beyond the prompt's."""
    longest = max((len(branch) for branch in branches), default=0)
    return min(sum(len(branch) - 1 for branch in branches), max(MOST_NODES, longest))


def score_branches(forward: Forward, request: Request, cache: KVCache, logits: torch.Tensor) -> tuple[tuple[Scored, ...], ...]:
    """The tokens of each branch, scored: the first by the prompt's last [vocab] logits, the rest in a pass over all branches
    together, in which each sees the prompt and itself. Raises GenerationError if logits are not finite, and once the row is
    canceled: a thousand branches may take minutes.
    """
    require_finite(logits)
    first = log_probabilities(logits)[None]  # [1, vocab]
    scored: list[tuple[Scored, ...]] = []
    for group in _groups(request.branches):
        if request.canceled is not None and request.canceled():
            raise canceled()
        if len(group[0]) - 1 > MOST_NODES:
            scored.append(_score_long_branch(forward, request, cache, first, group[0]))
            continue
        known = tree(group)
        rows = first
        if known.tokens:
            later = forward.branch(known.tokens, known.parents, cache)  # [nodes, vocab]
            require_finite(later)
            rows = torch.cat((first, log_probabilities(later).to(first.device)))
        for branch, path in zip(group, known.paths, strict=True):
            predicting = rows[[0, *(node + 1 for node in path)]]
            entries = score_each(branch, predicting, request.sampling.logprobs or 0, request.banned(predicting))
            scored.append(tuple(entries))
    return tuple(scored)


def _score_long_branch(
    forward: Forward, request: Request, cache: KVCache, first: torch.Tensor, branch: Sequence[int]
) -> tuple[Scored, ...]:
    """A branch that is too long for one pass, some tokens at a time. first: [1, vocab], predicts its first token."""
    scored = score_each(branch[:1], first, request.sampling.logprobs or 0, request.banned(first))
    length = cache.length
    for start in range(0, len(branch) - 1, MOST_NODES):
        part = branch[start : min(start + MOST_NODES, len(branch) - 1)]
        logits = forward.prefill(part, cache, every=True, drafted=True)
        require_finite(logits)
        scored += score_logits(request, branch[start + 1 : start + 1 + len(part)], logits)
    cache.truncate(length)
    return tuple(scored)


def _groups(branches: Sequence[Sequence[int]]) -> list[list[Sequence[int]]]:
    """Branches in order, in groups that run in one pass each."""
    groups: list[list[Sequence[int]]] = []
    nodes = MOST_NODES
    for branch in branches:
        nodes += len(branch) - 1
        if nodes > MOST_NODES or not groups:
            groups.append([])
            nodes = len(branch) - 1
        groups[-1].append(branch)
    return groups
