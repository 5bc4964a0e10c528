"""DRY ("don't repeat yourself"), a penalty for going on with a repetition, by p-e-w
(https://github.com/oobabooga/text-generation-webui/pull/5677, also in llama.cpp and koboldcpp).

Where the last n tokens have stood before, the token that followed them there is penalized by multiplier · base^(n - allowed
length), if n is at least the allowed length. Single words may come again; what grows with every token is the penalty for
copying on. The prompt counts. A breaker token (of a line break, a quotation mark, …) ends a repetition: none reaches across it,
so that the structure of a text is not penalized.
"""

from collections.abc import Sequence

# Longer repetitions count as this long: the power stays a number, and a search stays short.
LONGEST = 50


def dry_penalties(
    seen: Sequence[int], breakers: frozenset[int], multiplier: float, base: float, allowed: int
) -> dict[int, float]:
    """What is subtracted from the logits of some tokens. seen: the row's tokens so far, prompt included."""
    if not seen or seen[-1] in breakers:
        return {}
    longest: dict[int, int] = {}
    last, end = seen[-1], len(seen) - 1
    for place in range(end):
        following = seen[place + 1]
        if seen[place] != last or following in breakers:
            continue
        length = 1
        # As far back as both go on alike, and no breaker stands in them.
        while (
            length < LONGEST
            and length <= place
            and seen[place - length] == seen[end - length]
            and seen[end - length] not in breakers
        ):
            length += 1
        longest[following] = max(longest.get(following, 0), length)
    return {token: multiplier * base ** (length - allowed) for token, length in longest.items() if length >= allowed}
