"""Prompts in, text out as it becomes certain: joins an engine, which knows token ids only, with a tokenizer."""

from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, replace

from openllama_cli.generation.decode.loop import Event, Prefilled, Request, Scored, Step
from openllama_cli.generation.decode.loop import Prompt as Prompt  # What `stream` takes, for its callers.
from openllama_cli.generation.text.incremental import TextStream
from openllama_cli.models.tokenizer.base import Tokenizer

Engine = Callable[[Iterable[Request]], Iterator[Event]]


@dataclass(frozen=True)
class TextStep(Step):
    """What happened to a row: its prompt was prefilled, it got a token, text became certain, it ended.

    text: never part of a stop string; joined over a row it is the completion. prompt: if scored, one entry per prompt token.
    """

    text: str = ""
    prefilled: bool = False
    prompt: tuple[Scored, ...] = ()


def stream(engine: Engine, tokenizer: Tokenizer, prompts: Iterable[Prompt]) -> Generator[TextStep, None, None]:
    """Complete prompts. The steps of one row come in order; rows are interleaved."""
    texts: dict[int, TextStream] = {}

    def requests() -> Iterator[Request]:
        for prompt in prompts:
            text = texts[prompt.row] = TextStream(tokenizer, prompt.tokens, prompt.sampling.stop)
            yield Request(**vars(prompt), eos=tokenizer.eos_ids, watch=text.watch, pieceless=tokenizer.pieceless)

    for event in engine(requests()):
        if isinstance(event, Prefilled):
            yield TextStep(event.row, prefilled=True, prompt=event.scored)
            continue
        step, text = TextStep(**vars(event)), texts[event.row]
        if step.finish_reason is None and step.error is None:
            yield replace(step, text=text.pop_text())
            continue
        text.close()
        del texts[event.row]
        # The rest of a character may complete a stop string although the row ended for another reason.
        reason = "stop" if text.finished and step.error is None else step.finish_reason
        yield replace(step, text=text.pop_text(), finish_reason=reason)
