"""Prompts in, text out as it becomes certain: joins an engine, which knows token ids only, with a tokenizer."""

from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, replace

from openllama_cli.generation.decode.request import Request, Step
from openllama_cli.generation.text.incremental import TextStream
from openllama_cli.models.tokenizer.base import Tokenizer

Engine = Callable[[Iterable[Request | None]], Iterator[Step]]


@dataclass(frozen=True)
class TextStep(Step):
    """What happened to a row, with the text that became certain.

    text: never part of a stop string; joined over a row it is the completion.
    """

    text: str = ""


def stream(engine: Engine, tokenizer: Tokenizer, prompts: Iterable[Request | None]) -> Generator[TextStep, None, None]:
    """Complete prompts, whose `eos` and `watch` are set here. The steps of one row come in order; rows are interleaved.

    prompts: None in it means that none is waiting now, see `loop.decode_rows`.
    """
    texts: dict[int, TextStream] = {}

    def requests() -> Iterator[Request | None]:
        for prompt in prompts:
            if prompt is None:
                yield None
                continue
            text = texts[prompt.row] = TextStream(tokenizer, prompt.tokens, prompt.sampling.stop)
            yield replace(prompt, eos=tokenizer.eos_ids, watch=text.watch, pieceless=tokenizer.pieceless)

    for step in engine(requests()):
        if step.prefilled:
            yield TextStep(**vars(step))
            continue
        text, reason = texts[step.row], step.finish_reason
        if reason is not None or step.error is not None:
            text.close()
            del texts[step.row]
            # The rest of a character may complete a stop string although the row ended for another reason.
            reason = "stop" if text.finished and step.error is None else reason
        yield TextStep(**{**vars(step), "finish_reason": reason}, text=text.pop_text())
