"""Prompts in, text out as it becomes certain: the engines, which know token ids only, joined with a tokenizer."""

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from openllama_cli.errors import OlcError
from openllama_cli.generation.decode.config import SamplingConfig
from openllama_cli.generation.decode.loop import Event, FinishReason, Prefilled, Request, Scored
from openllama_cli.generation.text.incremental import Decoder, TextStream

Engine = Callable[[Iterable[Request]], Iterator[Event]]


class TextTokenizer(Decoder, Protocol):
    """The part of a tokenizer that a stream needs."""

    @property
    def eos_ids(self) -> frozenset[int]:
        """Ids that end a text."""


@dataclass(frozen=True)
class Prompt:
    """A prompt to complete.

    row: its identity. tokens: ids with BOS. score: report the prompt's log-probabilities too.
    draws_as, speculate: see `loop.Request`.
    """

    row: int
    tokens: Sequence[int]
    sampling: SamplingConfig
    score: bool = False
    draws_as: int | None = None
    speculate: int = 0


@dataclass(frozen=True)
class TextStep:
    """What happened to a row: its prompt went through (`prefilled`), it took a token, some text became certain, it ended.

    text: never part of a stop string; joined over a row it is the completion. prompt: if scored, one entry a prompt token.
    """

    row: int
    text: str = ""
    scored: Scored | None = None
    finish_reason: FinishReason | None = None
    error: OlcError | None = None
    prefilled: bool = False
    prompt: tuple[Scored, ...] = ()


def stream(engine: Engine, tokenizer: TextTokenizer, prompts: Iterable[Prompt]) -> Generator[TextStep, None, None]:
    """Complete prompts; the steps of one row in order, rows interleaved."""
    texts: dict[int, TextStream] = {}

    def requests() -> Iterator[Request]:
        for prompt in prompts:
            text = TextStream(tokenizer, prompt.tokens, prompt.sampling.stop)
            texts[prompt.row] = text
            yield Request(
                row=prompt.row,
                prompt=prompt.tokens,
                sampling=prompt.sampling,
                eos=tokenizer.eos_ids,
                watch=text.watch,
                score_prompt=prompt.score,
                draws_as=prompt.draws_as,
                speculate=prompt.speculate,
            )

    for event in engine(requests()):
        if isinstance(event, Prefilled):
            yield TextStep(event.row, prefilled=True, prompt=event.scored)
            continue
        step = TextStep(event.row, scored=event.scored, finish_reason=event.finish_reason, error=event.error)
        text = texts[event.row]
        if step.finish_reason is None and step.error is None:
            yield replace(step, text=text.take())
            continue
        text.close()
        del texts[event.row]
        # The rest of a character may complete a stop string although the row ended for another reason.
        reason = "stop" if text.finished and step.error is None else step.finish_reason
        yield replace(step, text=text.take(), finish_reason=reason)
