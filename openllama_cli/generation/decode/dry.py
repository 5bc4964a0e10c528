"""DRY ("don't repeat yourself"), a penalty for going on with a repetition, by p-e-w
(https://github.com/oobabooga/text-generation-webui/pull/5677, also in llama.cpp and koboldcpp).

Where the last n tokens have stood before, the token that followed them there is penalized by multiplier · base^(n - allowed
length), if n is at least the allowed length. Single words may come again; what grows with every token is the penalty for
copying on. The prompt counts. A breaker token (of a line break, a quotation mark, …) ends a repetition: none reaches across it,
so that the structure of a text is not penalized.
"""

from collections.abc import Sequence

import numpy as np

# Tokens beyond the allowed length that count: longer repetitions have the penalty of these, and a search stays short.
LONGEST = 50


def dry_penalties(
    seen: Sequence[int], breakers: frozenset[int], multiplier: float, base: float, allowed: int
) -> dict[int, float]:
    """What is subtracted from the logits of some tokens; infinity where that is beyond floats.

    seen: the row's tokens so far, prompt included.
    """
    if not seen or seen[-1] in breakers:
        return {}
    tokens, end = np.array(seen), len(seen) - 1
    # Where the last token stood before, and how many tokens before it, itself included, are those of the end.
    places = np.flatnonzero(tokens[:end] == tokens[end])
    lengths = np.ones(len(places), dtype=np.int64)
    longer = np.arange(len(places))
    # As far back as both go on alike, and no breaker stands in them.
    for length in range(1, min(end, allowed + LONGEST - 1) + 1):
        if seen[end - length] in breakers:
            break
        longer = longer[places[longer] >= length]
        longer = longer[tokens[places[longer] - length] == tokens[end - length]]
        if not len(longer):
            break
        lengths[longer] = length + 1
    order = lengths.argsort(kind="stable")
    longest = dict(zip(tokens[places[order] + 1].tolist(), lengths[order].tolist(), strict=True))  # The last of a token counts.
    with np.errstate(over="ignore"):
        return {
            token: float(multiplier * np.power(float(base), length - allowed, dtype=np.float64))
            for token, length in longest.items()
            if length >= allowed and token not in breakers
        }
