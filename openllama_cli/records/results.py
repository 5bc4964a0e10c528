"""The records of single results, from what came of them: completions, chosen answers, a score. Imports no torch.

where: the `record.surroundings` in which it was made.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from openllama_cli.generation.choices.config import Choices
from openllama_cli.generation.decode.config import SamplingConfig

if TYPE_CHECKING:
    from openllama_cli.generation.decode.request import Scored
    from openllama_cli.generation.text.completion import Completion
    from openllama_cli.generation.text.scoring import Prepared

# A prompt's text and its ids.
Prompt = tuple[str, Sequence[int]]


def completed(
    where: Mapping[str, Any],
    sampling: SamplingConfig,
    prompts: Sequence[Prompt],
    rows: "Sequence[Completion]",
    *,
    seeds: Sequence[int | None] = (),
    draws: Sequence[int] = (),
    kept: Sequence[int] = (),
    **options: Any,
) -> dict[str, Any]:
    """Of rows that have ended, the samples of a prompt side by side.

    seeds: of each prompt, if not the sampling's. draws: which random numbers each row drew (`Request.draws_as`), if not those
    of its place. kept: the rows that are the answer, in its order, if not all. options: the command's own.
    """
    samples = len(rows) // len(prompts) if prompts else 1
    several = len(set(seeds)) > 1
    seed = seeds[0] if seeds and not several and seeds[0] is not None else None if several else sampling.seed
    answered: dict[int, int] = {row: place for place, row in enumerate(kept)}
    return {
        **where,
        "options": {**asdict(sampling), "seed": seed, "samples": samples, "speculate": 0, **options},
        "prompts": [
            {
                "text": text,
                "ids": list(ids),
                **({"seed": seeds[place]} if several else {}),
                **_scored(ids, rows[place * samples].prompt_scored if samples else ()),
            }
            for place, (text, ids) in enumerate(prompts)
        ],
        "completions": [
            {
                **_tokens(row.scored),
                "finish_reason": row.finish_reason,
                **({"draws_as": draws[place]} if draws and draws[place] != place else {}),
                **({"choice": answered.get(place)} if kept else {}),
            }
            for place, row in enumerate(rows)
        ],
    }


def chosen(
    where: Mapping[str, Any], choices: Choices, prompts: Sequence[str], rows: "Sequence[Completion]", **options: Any
) -> dict[str, Any]:
    """Of answers from a list. rows: of the prompts, and of the neutral prompt behind them if there is one.

    Scores and probabilities follow from the log-probabilities of the choices' tokens.
    """
    texts = [*prompts, *([] if choices.neutral is None else [choices.neutral])]
    return {
        **where,
        "options": {
            "choices": list(choices.texts),
            "choices_prefix": choices.prefix,
            "choices_normalize": choices.normalize,
            "calibrate_with": choices.neutral,
            **options,
        },
        "prompts": [
            {"text": text, "ids": list(row.prompt), "branches": [_tokens(branch) for branch in row.branches]}
            for text, row in zip(texts, rows, strict=True)
        ],
        "completions": [],
    }


def scored(
    where: Mapping[str, Any],
    text: str,
    prepared: "Prepared",
    logprobs: Sequence[float | None],
    **options: Any,
) -> dict[str, Any]:
    """Of a text's score. text: with its context in front. logprobs: of its tokens from `prepared.first` on."""
    before: list[float | None] = [None] * prepared.first
    return {
        **where,
        "options": {"first": prepared.first, "stride": prepared.stride, **options},
        "prompts": [{"text": text, "ids": list(prepared.tokens), "logprobs": [*before, *logprobs]}],
        "completions": [],
    }


def _tokens(scored: "Sequence[Scored]") -> dict[str, Any]:
    return {"ids": [one.token for one in scored], "logprobs": [one.logprob for one in scored]}


def _scored(ids: Sequence[int], scored: "Sequence[Scored]") -> dict[str, Any]:
    """A prompt's log-probabilities, if it was scored. A server leaves out a BOS that no answer shows; what is drawn anew
    (`heal`) has none.
    """
    if not scored:
        return {}
    hidden = int(scored[0].token != ids[0])
    values = [*([None] * hidden), *(one.logprob for one in scored)]
    return {"logprobs": [*values, *([None] * (len(ids) - len(values)))]}
