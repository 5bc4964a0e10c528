"""Drafts from the row's own text: what followed the last words when they stood there before.

Prompt lookup decoding (Saxena 2023, https://github.com/apoorvumang/prompt-lookup-decoding). A summary or an edited program
repeats long stretches of its prompt; there a draft is often right, and one pass through the model checks all of it at the
cost of little more than one token on a CPU (on a GPU with CUDA graphs, of several). A wrong draft changes nothing but time.
"""

from collections.abc import Sequence

# The longer the words that match, the likelier is what follows them.
_LONGEST = 4
_SHORTEST = 2


def draft(tokens: Sequence[int], count: int) -> list[int]:
    """At most `count` tokens that may come next, or none: those that followed the latest earlier match of the last ones."""
    if count < 1:
        return []
    for size in range(min(_LONGEST, len(tokens) - 1), _SHORTEST - 1, -1):
        wanted = list(tokens[-size:])
        for start in range(len(tokens) - size - 1, -1, -1):
            if tokens[start] == wanted[0] and list(tokens[start : start + size]) == wanted:
                return list(tokens[start + size : start + size + count])
    return []
