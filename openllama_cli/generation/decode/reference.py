"""`model.generate` behind the loop's interface: `--engine transformers`, the reference that the loop is compared with.

One row after another, since `model.generate` has one configuration and one random generator for all of them. Its draws
differ from the loop's for the same seed; its greedy tokens do not, in float32.
"""

import queue
import threading
from collections.abc import Iterable, Iterator
from typing import Any

import torch

from openllama_cli.errors import OlcError
from openllama_cli.generation.decode.loop import (
    Event,
    FinishReason,
    Prefilled,
    Request,
    Scored,
    Step,
    ending,
    over_context,
    score,
    score_prompt,
)
from openllama_cli.generation.decode.sampling import log_probabilities, require_finite, row_seed

# Below it transformers' division of the logits overflows float32; the limit is greedy, as in `sampling.warp`.
_LEAST_TEMPERATURE = 1e-30


def generate_rows(model: Any, input_device: torch.device, requests: Iterable[Request]) -> Iterator[Event]:
    """Run requests through `model.generate`; the same events as `loop.decode_rows`, rows in order.

    `score_prompt` costs one more forward pass.
    """
    for request in requests:
        yield from _generate_row(model, input_device, request)


def _generate_row(model: Any, input_device: torch.device, request: Request) -> Iterator[Event]:
    context = int(model.config.max_position_embeddings)
    room = context - len(request.prompt)
    if not request.prompt or room < 0:
        yield Step(request.row, error=over_context(len(request.prompt), context))
        return
    yield Prefilled(request.row, _score(model, input_device, request) if request.score_prompt else ())
    limit = min(request.sampling.max_tokens, room)
    at_limit: FinishReason = "length" if request.sampling.max_tokens <= room else "context"
    if limit == 0:
        yield Step(request.row, finish_reason=at_limit)
        return
    yield from _Run(model, input_device, request, limit, at_limit).steps()


def _score(model: Any, input_device: torch.device, request: Request) -> tuple[Scored, ...]:
    with torch.inference_mode():
        logits = model(torch.tensor([list(request.prompt)], device=input_device)).logits[0]  # [n, vocab]
    return score_prompt(request, logits)


class _Run:
    """One `model.generate`, in a thread, since it pushes tokens and we are asked for them."""

    def __init__(self, model: Any, device: torch.device, request: Request, limit: int, at_limit: FinishReason) -> None:
        self._model, self._device, self._request = model, device, request
        self._limit, self._at_limit = limit, at_limit
        self._taken = 0
        self._canceled = False
        self._logits: torch.Tensor | None = None
        self._queue: queue.SimpleQueue[Step | BaseException | None] = queue.SimpleQueue()

    def steps(self) -> Iterator[Step]:
        thread = threading.Thread(target=self._generate, daemon=True)
        thread.start()
        try:
            while (item := self._queue.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            self._canceled = True
            thread.join()

    def _generate(self) -> None:
        from transformers import GenerationConfig

        request, sampling = self._request, self._request.sampling
        greedy = sampling.temperature < _LEAST_TEMPERATURE
        config = GenerationConfig(
            max_new_tokens=self._limit,
            eos_token_id=sorted(request.eos) or None,
            pad_token_id=0,
            do_sample=not greedy,
            repetition_penalty=sampling.repetition_penalty,
            use_cache=True,
        )
        if not greedy:
            config.update(temperature=sampling.temperature, top_k=sampling.top_k, top_p=sampling.top_p, min_p=sampling.min_p)
        prompt = torch.tensor([list(request.prompt)], device=self._device)  # [1, n]
        # The scores that generate hands out are filtered and tempered; log-probabilities need the logits themselves.
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
            self._queue.put(None)
        except OlcError as error:
            self._queue.put(Step(request.row, error=error))
            self._queue.put(None)
        except BaseException as error:  # handed to the thread that asked, which raises it
            self._queue.put(error)
        finally:
            hook.remove()

    def _remember_logits(self, module: Any, inputs: Any, output: Any) -> None:
        self._logits = output.logits[0, -1].float()  # [vocab]
        require_finite(self._logits)

    def _on_token(self, ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        """transformers calls this after every token, with all ids so far, [1, n]; true ends the row."""
        request, token = self._request, int(ids[0, -1])
        self._taken += 1
        wanted = request.sampling.logprobs
        assert self._logits is not None
        scored = Scored(token) if wanted is None else score(token, log_probabilities(self._logits), wanted)
        stopped = token not in request.eos and request.watch is not None and request.watch(token)
        reason = ending(request, token, stopped=stopped, limit=self._at_limit if self._taken == self._limit else None)
        self._queue.put(Step(request.row, scored, reason))
        return torch.tensor([reason is not None or self._canceled], device=ids.device)
