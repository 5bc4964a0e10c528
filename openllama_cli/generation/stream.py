"""Prompts in, text out as it becomes certain: the engines, which know token ids only, joined with a tokenizer."""

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, Protocol

import torch

from openllama_cli.errors import OlcError
from openllama_cli.generation.config import SamplingConfig
from openllama_cli.generation.followed import LeadingForward
from openllama_cli.generation.forward import Forward, TransformersForward
from openllama_cli.generation.graphed import GraphForward, suits_graphs
from openllama_cli.generation.lean import LeanForward, suits
from openllama_cli.generation.loop import Event, FinishReason, Prefilled, Request, Scored, decode_rows
from openllama_cli.generation.prefix import PrefixCache
from openllama_cli.generation.quantised import prepare
from openllama_cli.generation.reference import generate_rows
from openllama_cli.generation.text import Decoder, TextStream

EngineName = Literal["loop", "transformers"]
Engine = Callable[[Iterable[Request]], Iterator[Event]]


class TextTokenizer(Decoder, Protocol):
    """The part of a tokenizer that a stream needs."""

    @property
    def eos_ids(self) -> frozenset[int]:
        """Ids that end a text."""


class Loaded(Protocol):
    """The part of `models.load.LoadedModel` that generation needs."""

    @property
    def model(self) -> Any:
        """The transformers model, in eval mode; None where the weights are quantised."""

    @property
    def input_device(self) -> torch.device:
        """Where it takes token ids."""

    @property
    def quantised(self) -> Any:
        """Quantised weights in place of the model, or None. See `quantised.Quantised`."""


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


def choose_forward(loaded: Loaded, notice: Callable[[str], None] | None = None) -> Forward:
    """The lean forward pass where it can run the model, with CUDA graphs where it can; transformers' own elsewhere, with all
    ranks if there are several. notice: told what people should know.
    """
    ranks = getattr(loaded, "ranks", None)
    if ranks is not None:
        return LeadingForward(TransformersForward(loaded.model, loaded.input_device), ranks)
    if loaded.quantised is not None:
        return LeanForward(prepare(loaded.quantised))
    if suits_graphs(loaded.model):
        try:
            return GraphForward(loaded.model, notice)
        except RuntimeError as error:  # No memory, or private operators of torch's that do not do what they did.
            if notice is not None:
                reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
                notice(f"CUDA graphs cannot be used here, so decoding is slower: {reason}")
    if suits(loaded.model):
        return LeanForward(loaded.model)
    return TransformersForward(loaded.model, loaded.input_device)


def make_engine(
    loaded: Loaded,
    name: EngineName = "loop",
    *,
    forward: Forward | None = None,
    max_rows: int = 16,
    prefixes: PrefixCache | None = None,
    notice: Callable[[str], None] | None = None,
) -> Engine:
    """The decode loop over `max_rows` rows at a time, or `model.generate` row by row.

    forward: for the loop. notice: see `choose_forward`.
    """
    if name == "transformers":
        return partial(generate_rows, loaded.model, loaded.input_device)
    return partial(decode_rows, forward or choose_forward(loaded, notice), max_rows=max_rows, prefixes=prefixes)


def engines(loaded: Loaded, notice: Callable[[str], None] | None = None) -> Callable[[int], Engine]:
    """Decode loops for so many rows at a time, one after another, on one forward pass: on a GPU it takes a second to make.

    After memory ran out, when fewer rows are asked for, it is made anew, since its caches and known prefixes fill memory.
    """
    forward: Forward | None = None
    most = 0

    def make(rows: int) -> Engine:
        nonlocal forward, most
        if rows < most:
            forward = None
        forward, most = forward or choose_forward(loaded, notice), rows
        return make_engine(loaded, forward=forward, max_rows=rows, prefixes=PrefixCache())

    return make


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
