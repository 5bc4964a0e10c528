"""The decode loop: prompts as token ids in, one step per token out. `complete`, `generate` and `batch` all run on it.

A reader of the published Llama `generate` finds its parts here, with these differences:

- prompt lengths: there the shortest prompt is prefilled and longer ones are fed token by token; here each row is prefilled
  completely by itself, then all rows decode together, each at its own position.
- cache and mask: there one tensor for the batch and a causal mask over it; here each row owns its KV cache (`cache.KVCache`)
  and attends to nothing else, so there is no padding to mask.
- EOS: there a finished row continues until all are done; here it leaves at once and a waiting row takes its place. An EOS
  inside a prompt is an ordinary token and ends nothing.
- logprobs: there they come from the tempered or untempered logits shifted by one, and the first token of an echoed prompt
  gets 0.0; here they are of the untempered distribution, and the first token, which nothing predicts, has none. If all
  prompts fill the context, there the logprobs are not shifted; here they are those of a full forward pass.
- random numbers: there one global generator; here one per row (`sampling.row_generator`).
"""

from collections.abc import Iterable, Iterator, Sequence

from openllama_cli.errors import GenerationError
from openllama_cli.generation.decode.active_row import ActiveRow
from openllama_cli.generation.decode.prefill import (
    branch_nodes,
    canceled,
    over_context,
    prefill,
    score_branches,
    score_in_windows,
)
from openllama_cli.generation.decode.request import Request, Scored, Step
from openllama_cli.generation.decode.sampling import row_generator
from openllama_cli.generation.forward.cache import PrefixCache
from openllama_cli.generation.forward.transformers_forward import Forward
from openllama_cli.system.memory import is_out_of_memory

# What `requests` has no more than.
_END = object()

# Lengths of the last tokens that `draft` looks for earlier in the text: a longer match predicts better.
_LONGEST_MATCH, _SHORTEST_MATCH = 4, 2


def decode_rows(
    forward: Forward,
    requests: Iterable[Request | None],
    *,
    max_rows: int = 16,
    prefixes: PrefixCache | None = None,
    shed: bool = False,
) -> Iterator[Step]:
    """Run all requests with a batch size of at most `max_rows`; when a row ends, the next one joins.

    requests: None in it means that none is waiting now: the rows in flight go on by one step before it is asked again. It may
    block while there are none. prefixes: reuses the KV cache of common prompt prefixes; changes no result. shed: a row that
    memory has no room for ends with an error, code "out_of_memory", instead of raising; the youngest goes first.

    Steps of one row come in order: the prefill, then one per token; rows are interleaved. `requests` is read only as the
    batch has room. A row that fails (non-finite logits, prompt longer than the context) ends with its error; the others
    continue. Closing the iterator stops the work.
    """
    waiting = iter(requests)
    active: list[ActiveRow] = []
    more = True
    # No variable here may keep a row: the KV cache of one that ended must be free before the next one allocates its own.
    while True:
        while more and len(active) < max_rows:
            request = next(waiting, _END)
            if request is _END:
                more = False
            if not isinstance(request, Request):
                break
            yield from (_admit_or_shed if shed else _admit)(forward, request, prefixes, active)
        yield from _cancel(active)
        active = [row for row in active if not row.finished]
        if active:
            yield from (_step_or_shed if shed else _step)(forward, active)
            active = [row for row in active if not row.finished]
        elif not more:
            return


def _cancel(active: Sequence[ActiveRow]) -> Iterator[Step]:
    for row in active:
        if row.request.canceled is not None and row.request.canceled():
            row.finished = True
            yield Step(row.request.row, error=canceled())


def _out_of_memory(row: int) -> Step:
    cause = "memory has no room for this prompt and completion beside what else is running"
    return Step(row, error=GenerationError(cause, "try again later, with fewer tokens", code="out_of_memory"))


def _admit_or_shed(forward: Forward, request: Request, prefixes: PrefixCache | None, active: list[ActiveRow]) -> Iterator[Step]:
    """`_admit`; a row that has no room even without the known prefixes ends with an error."""
    for known in (prefixes, None):
        try:
            yield from _admit(forward, request, known, active)
            return
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        # Outside of the except block, where the traceback would keep the tensors alive.
        if prefixes is not None:
            prefixes.clear()
    yield _out_of_memory(request.row)


def _step_or_shed(forward: Forward, active: list[ActiveRow]) -> Iterator[Step]:
    """`_step`; where memory runs out, the youngest row ends with an error, and the others go on."""
    try:
        yield from _step(forward, active)
        return
    except Exception as error:
        if not is_out_of_memory(error):
            raise
    shed = active.pop()
    for row in active:
        # Some were run and not sampled any more; they run again.
        row.cache.truncate(min(row.cache.length, len(row.tokens) - 1))
    yield _out_of_memory(shed.request.row)


def _step(forward: Forward, active: Sequence[ActiveRow]) -> Iterator[Step]:
    """A token for every row, several if a draft was right. The last token of each has not been run yet."""
    plain = []
    for row in active:
        drafted = draft(row.tokens, min(row.request.speculate, row.left - 1)) if row.request.speculate else []
        if drafted:
            yield from _verify(forward, row, drafted)
        else:
            plain.append(row)
    if not plain:
        return
    logits = forward.decode([row.tokens[-1] for row in plain], [row.cache for row in plain])  # [rows, vocab]
    if all(row.request.sampling.greedy for row in plain):
        # Finding the largest logit is faster here than one GPU call per row; sorting, for sampling, is not.
        logits = logits.cpu()
    for row, row_logits in zip(plain, logits, strict=True):
        yield from row.sample(row_logits)
        row.cache.truncate(len(row.tokens) - 1)  # Tokens may have been taken back.


def _admit(forward: Forward, request: Request, prefixes: PrefixCache | None, active: list[ActiveRow]) -> Iterator[Step]:
    """Prefill one row and sample its first token; it joins the active ones unless it ended there."""
    length = len(request.tokens)
    completed = not request.branches and request.sampling.max_tokens > 0
    if length > forward.context and request.stride is not None and request.score and not completed and not request.branches:
        yield from _score_long(forward, request, request.stride)
        return
    longest = max((len(branch) for branch in request.branches), default=0)
    if not 1 <= length <= forward.context - longest:
        yield Step(request.row, error=over_context(length and length + longest, forward.context))
        return
    room = forward.context - length
    left = min(request.sampling.max_tokens, room) if completed else 0
    draws_as = request.row if request.draws_as is None else request.draws_as
    row = ActiveRow(
        request,
        # The last token is never run, so it needs no position.
        cache=forward.new_cache(length + max(left - 1, branch_nodes(request.branches), 0)),
        tokens=list(request.tokens),
        left=left,
        at_limit="length" if request.sampling.max_tokens <= room else "context",
        generator=None if request.sampling.greedy else row_generator(request.sampling.seed or 0, draws_as),
    )
    first = [Step(request.row, finish_reason=row.at_limit)]
    scored: tuple[Scored, ...] = ()
    try:
        if completed or request.score or request.branches:
            logits, scored = prefill(forward, request, row.cache, prefixes)
            if request.branches:
                branches = score_branches(forward, request, row.cache, logits)
                first = [Step(request.row, finish_reason="stop", branches=branches)]
            elif left > 0:
                # After the scores, for which memory may run out: the row is then begun again, and its watcher is told of every
                # token once.
                first = row.sample(logits)
    except GenerationError as error:  # Non-finite logits
        yield Step(request.row, error=error)
        return
    if left > 0 and not row.finished:
        active.append(row)
    yield Step(request.row, prefilled=True, prompt=scored)
    yield from first


def _score_long(forward: Forward, request: Request, stride: int) -> Iterator[Step]:
    """Score a prompt that is longer than the context."""
    try:
        scored = score_in_windows(forward, request, stride)
    except GenerationError as error:
        yield Step(request.row, error=error)
        return
    yield Step(request.row, prefilled=True, prompt=scored)
    yield Step(request.row, finish_reason="length")


def draft(tokens: Sequence[int], count: int) -> list[int]:
    """At most `count` tokens that may come next, or none: what followed the latest earlier occurrence of the last few tokens.

    Prompt lookup decoding (Saxena 2023, https://github.com/apoorvumang/prompt-lookup-decoding). A summary or an edited program
    repeats long stretches of its prompt. There a draft is often right, and one pass verifies all of it for little more than the
    cost of one token on a CPU (of several on a GPU with CUDA graphs). A wrong draft costs only time.
    """
    if count < 1:
        return []
    for size in range(min(_LONGEST_MATCH, len(tokens) - 1), _SHORTEST_MATCH - 1, -1):
        last = list(tokens[-size:])
        for start in range(len(tokens) - size - 1, -1, -1):
            if tokens[start] == last[0] and list(tokens[start : start + size]) == last:
                return list(tokens[start + size : start + size + count])
    return []


def _verify(forward: Forward, row: ActiveRow, drafted: Sequence[int]) -> Iterator[Step]:
    """Run the last token and a draft in one pass; keep tokens as long as the draft was right, and one more.

    Each token is chosen from the logits that it would be chosen from without a draft, with the same random numbers.
    """
    logits = forward.prefill([row.tokens[-1], *drafted], row.cache, every=True, drafted=True)  # [1 + drafted, vocab]
    length = len(row.tokens)
    for position, expected in enumerate((*drafted, None)):
        yield from row.sample(logits[position])
        if row.finished or len(row.tokens) != length + position + 1 or row.tokens[-1] != expected:
            break
    # The last token has not been run, and wrong drafts are dropped, as is what was taken back.
    row.cache.truncate(len(row.tokens) - 1)
