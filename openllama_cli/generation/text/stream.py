"""Prompts in, text out as it becomes certain: joins an engine, which knows token ids only, with a tokenizer."""

from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, replace

from openllama_cli.generation.constraints.matcher import matcher
from openllama_cli.generation.decode.request import Request, Step
from openllama_cli.generation.text.healing import NOTHING, Healed, heal
from openllama_cli.generation.text.row_text import RowText
from openllama_cli.generation.text.token_ids import breaker_ids
from openllama_cli.models.tokenizer.base import Tokenizer

Engine = Callable[[Iterable[Request | None]], Iterator[Step]]


@dataclass(frozen=True)
class TextStep(Step):
    """What happened to a row, with the text that became certain.

    text: never part of a stop string; joined over a row it is the completion. healed: of the step at which the prompt was
    prefilled: what of its end is drawn anew, and is not the completion's.
    """

    text: str = ""
    healed: Healed = NOTHING


def stream(engine: Engine, tokenizer: Tokenizer, prompts: Iterable[Request | None]) -> Generator[TextStep, None, None]:
    """Complete prompts, whose `eos`, `watch`, `pieceless`, `breakers` and `constraints` are set here. The steps of one row come
    in order; rows are interleaved.

    prompts: None in it means that none is waiting now, see `loop.decode_rows`.
    """
    texts: dict[int, RowText] = {}
    healed: dict[int, Healed] = {}

    def requests() -> Iterator[Request | None]:
        for prompt in prompts:
            if prompt is None:
                yield None
                continue
            sampling, anew = prompt.sampling, NOTHING
            if sampling.heal:
                prompt, anew = heal(prompt, tokenizer)
                healed[prompt.row] = anew
            text = texts[prompt.row] = RowText(tokenizer, prompt.tokens, sampling, hidden=anew.characters)
            breakers = breaker_ids(tokenizer, sampling.dry_sequence_breakers) if sampling.dry_multiplier else frozenset[int]()
            if sampling.constraint is not None:
                ends = tokenizer.eos_ids | frozenset(sampling.stop_token_ids)
                own = matcher(sampling.constraint, tokenizer, prompt.tokens, ends)
                prompt = replace(prompt, constraints=(*prompt.constraints, own))
            yield replace(prompt, eos=tokenizer.eos_ids, watch=text.watch, pieceless=tokenizer.pieceless, breakers=breakers)

    for step in engine(requests()):
        if step.prefilled:
            yield TextStep(**vars(step), healed=healed.pop(step.row, NOTHING))
            continue
        text, reason = texts[step.row], step.finish_reason
        if reason is None and step.error is None:
            yield TextStep(**vars(step), text=text.pop_text())
            continue
        text.close()
        del texts[step.row]
        healed.pop(step.row, None)
        if step.error is None:
            # The rest of a character may complete a stop string although the row ended for another reason.
            reason = text.reason or reason
        yield TextStep(**vars(replace(step, finish_reason=reason)), text=text.pop_rest())
