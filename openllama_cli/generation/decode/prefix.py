"""Prompts that begin alike (a few-shot template) run their common beginning once.

A row's keys and values of its prompt stay as they are while it decodes, so the caches of the last few rows can be read by
rows that come later. Only whole pieces of the prefill grid are taken over: the rest of the prompt then takes the same path
through the model as it would have alone, and the logits are the same to the last bit.
"""

from collections import deque
from collections.abc import Sequence

from openllama_cli.generation.forward.cache import KVCache

# Rows whose caches are kept. Rows of one template come one after another; a few let different templates alternate.
_KEPT = 4


class PrefixCache:
    """The prompts of the last few rows, with their caches."""

    def __init__(self, kept: int = _KEPT) -> None:
        self._rows: deque[tuple[Sequence[int], KVCache]] = deque(maxlen=kept)

    def restore(self, prompt: Sequence[int], cache: KVCache) -> int:
        """Copy the longest known beginning of `prompt` into an empty cache; return how many positions that were.

        At least one token is left to run, since its logits are needed.
        """
        best, source = 0, None
        chunk = cache.chunk
        most = (len(prompt) - 1) // chunk * chunk
        for tokens, other in self._rows:
            common = _common(prompt, tokens, most) // chunk * chunk
            if common > best:
                best, source = common, other
        if source is not None:
            cache.copy_from(source, best)
        return best

    def remember(self, prompt: Sequence[int], cache: KVCache) -> None:
        """Keep a row's cache, once its whole prompt is in it."""
        if len(prompt) >= cache.chunk:
            self._rows.append((prompt, cache))


def _common(one: Sequence[int], other: Sequence[int], most: int) -> int:
    """How many tokens two prompts have in common at their beginning, `most` at the most."""
    for place in range(min(most, len(one), len(other))):
        if one[place] != other[place]:
            return place
    return min(most, len(one), len(other))
