"""`model.generate` as the reference for the decode loop: behind the loop's interface (`--engine transformers`), and compared
with it (`generate --check`).

Rows run one after another, since `model.generate` has one configuration and one random generator for all. For the same seed it
samples other tokens than the loop; in float32 its greedy tokens are the same.
"""

import inspect
import queue
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

import torch

from openllama_cli.errors import GenerationError, OlcError
from openllama_cli.generation.decode.active_row import ending
from openllama_cli.generation.decode.config import loop_only
from openllama_cli.generation.decode.prefill import over_context, score_logits
from openllama_cli.generation.decode.request import GO_ON, FinishReason, Request, Scored, Step, score
from openllama_cli.generation.decode.sampling import log_probabilities, require_finite, row_seed
from openllama_cli.generation.decode.vocabulary import banned_ids
from openllama_cli.models.checkpoint.rope import longrope_limit

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

# A full forward pass and one with a KV cache differ in the order of additions: about 1e-6 in float32.
LOGPROB_TOLERANCE = 1e-4


def generate_rows(model: "LlamaForCausalLM", input_device: torch.device, requests: Iterable[Request | None]) -> Iterator[Step]:
    """Run requests through `model.generate`; the same steps as `loop.decode_rows`, row by row.

    Scoring a prompt costs one more forward pass. A row with an option that is the loop's alone fails.
    """
    context = int(model.config.max_position_embeddings)
    for request in requests:
        if request is None:
            continue
        room = context - len(request.tokens)
        if not request.tokens or room < 0:
            yield Step(request.row, error=over_context(len(request.tokens), context))
            continue
        problem = _unsupported(request)
        if problem is not None:
            yield Step(request.row, error=problem)
            continue
        scored: tuple[Scored, ...] = ()
        if request.score:
            with torch.inference_mode():
                ids: Any = torch.tensor([list(request.tokens)], device=input_device)
                logits = model(ids).logits[0]  # [n, vocab]
                scored = (Scored(request.tokens[0]), *score_logits(request, request.tokens[1:], logits))
        yield Step(request.row, prefilled=True, prompt=scored)
        limit = min(request.sampling.max_tokens, room)
        at_limit: FinishReason = "length" if request.sampling.max_tokens <= room else "context"
        if limit == 0:
            yield Step(request.row, finish_reason=at_limit)
        else:
            yield from _Run(model, input_device, request, limit, at_limit).steps()


def _unsupported(request: Request) -> GenerationError | None:
    """The error of a row that asks for what `model.generate` does not have as olc means it."""
    flag = loop_only(request.sampling) or ("constraints" if request.constraints else None)
    if flag is None:
        return None
    return GenerationError(f"model.generate has no {flag}", "use the decode loop: --engine loop", code="unsupported_option")


class _Run:
    """One call of `model.generate`, in a thread: it pushes tokens, while `steps` is pulled from."""

    def __init__(self, model: Any, device: torch.device, request: Request, limit: int, at_limit: FinishReason) -> None:
        self._model, self._device, self._request = model, device, request
        self._limit, self._at_limit = limit, at_limit
        self._count = 0
        self._canceled = False
        self._logits: torch.Tensor | None = None
        self._queue: queue.SimpleQueue[Step | BaseException | None] = queue.SimpleQueue()

    def steps(self) -> Iterator[Step]:
        thread = threading.Thread(target=self._generate, daemon=True)
        thread.start()
        try:
            while (item := self._queue.get()) is not None:
                if isinstance(item, OlcError):
                    item = Step(self._request.row, error=item)
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            self._canceled = True
            thread.join()

    def _generate(self) -> None:
        from transformers import GenerationConfig

        request, sampling = self._request, self._request.sampling
        greedy = sampling.greedy
        never = {*banned_ids(request.pieceless, request.eos, self._model.config.vocab_size)}
        if sampling.ignore_eos:
            never |= request.eos
        config = GenerationConfig(
            max_new_tokens=self._limit,
            min_new_tokens=sampling.min_tokens or None,
            eos_token_id=sorted((request.eos | {*sampling.stop_token_ids}) - never) or None,
            pad_token_id=0,
            do_sample=not greedy,
            repetition_penalty=sampling.repetition_penalty,
            suppress_tokens=sorted(never) or None,
            use_cache=True,
        )
        if not greedy:
            config.update(temperature=sampling.temperature, top_k=sampling.top_k, top_p=sampling.top_p, min_p=sampling.min_p)
        prompt = torch.tensor([list(request.tokens)], device=self._device)  # [1, n]
        # generate passes on filtered and tempered scores; log-probabilities need the logits themselves.
        hook = self._model.register_forward_hook(self._remember_logits)
        try:
            with torch.random.fork_rng(enabled=not greedy):
                if not greedy:
                    torch.manual_seed(row_seed(sampling.seed or 0, request.row))
                self._model.generate(
                    prompt,
                    attention_mask=torch.ones_like(prompt),
                    generation_config=config,
                    stopping_criteria=[self._on_token],
                )
        except BaseException as error:  # Raised by `steps`, in the caller's thread.
            self._queue.put(error)
        finally:
            hook.remove()
            self._queue.put(None)

    def _remember_logits(self, module: Any, inputs: Any, output: Any) -> None:
        self._logits = output.logits[0, -1].float()  # [vocab]
        require_finite(self._logits)

    def _on_token(self, ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        """Called by transformers after every token, with all ids so far, [1, n]; true ends the row."""
        request, token = self._request, int(ids[0, -1])
        self._count += 1
        alternatives = request.sampling.logprobs
        assert self._logits is not None
        scored = Scored(token)
        if alternatives is not None:
            scored = score(token, log_probabilities(self._logits), alternatives, request.banned(self._logits))
        silent = token in request.eos or token in request.sampling.stop_token_ids
        verdict = GO_ON if silent or request.watch is None else request.watch(token)
        reason = ending(request, token, verdict, self._at_limit if self._count == self._limit else None)
        self._queue.put(Step(request.row, scored, reason))
        return torch.tensor([reason is not None or self._canceled], device=ids.device)


@dataclass(frozen=True)
class Check:
    """The comparison of one prompt.

    tokens, generate_tokens: greedy tokens of the loop and of `model.generate`, EOS included.
    first_difference: the first position at which they differ, or None.
    margin: how much more likely (in log-probability) the loop's token was than the other one there; a near tie is rounding.
    logprob_difference: the largest one between the loop and a full forward pass, over all tokens of the loop.
    """

    row: int
    tokens: tuple[int, ...]
    generate_tokens: tuple[int, ...]
    first_difference: int | None
    margin: float | None
    logprob_difference: float

    @property
    def same(self) -> bool:
        """Whether tokens are equal and log-probabilities differ by at most `LOGPROB_TOLERANCE`."""
        return self.first_difference is None and self.logprob_difference <= LOGPROB_TOLERANCE


@torch.inference_mode()
def compare(model: Any, device: torch.device, request: Request, scored: Sequence[Scored]) -> Check:
    """Compare a row's greedy tokens and their log-probabilities with `model.generate` and a full forward pass."""
    ours = tuple(entry.token for entry in scored)
    steps = generate_rows(model, device, [request])
    theirs = tuple(step.scored.token for step in steps if step.scored is not None)
    logprobs = log_probabilities(_full_pass(model, device, request.tokens, ours))  # [new + 1, vocab]
    gaps = [abs(float(logprobs[position, entry.token]) - (entry.logprob or 0.0)) for position, entry in enumerate(scored)]
    pairs = enumerate(zip_longest(ours, theirs))
    position = next((position for position, (one, other) in pairs if one != other), None)
    margin = None
    if position is not None and position < min(len(ours), len(theirs)):
        margin = float(logprobs[position, ours[position]] - logprobs[position, theirs[position]])
    return Check(request.row, ours, theirs, position, margin, max(gaps, default=0.0))


def _full_pass(model: Any, device: torch.device, prompt: Sequence[int], new: Sequence[int]) -> torch.Tensor:
    """The logits that predict each new token and one more, [new + 1, vocab], in one pass over prompt and new tokens.

    Where longrope turns a longer pass by other angles than the prompt, there is no such pass: it is the prompt's, and then one
    for each token, as in `model.generate`.
    """
    limit = longrope_limit(model.config.to_dict())
    if limit is None or not len(prompt) <= limit < len(prompt) + len(new):
        logits: torch.Tensor = model(torch.tensor([[*prompt, *new]], device=device)).logits[0, len(prompt) - 1 :]
        return logits
    from transformers import DynamicCache

    # transformers 5.24 calls it cache, as its outputs do.
    name = "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"
    arguments = {name: DynamicCache(config=model.config), "use_cache": True}
    parts = [[*prompt], *([token] for token in new)]
    return torch.cat([model(torch.tensor([part], device=device), **arguments).logits[0, -1:] for part in parts])
