"""Which examples come first."""

import random
from collections.abc import Hashable, Sequence


def order(answers: Sequence[Hashable], *, seed: int | None = None, balance: bool = False) -> list[int]:
    """The places of all examples, the first to be taken first. answers: theirs.

    seed: shuffles them, the same way everywhere and always; None leaves them as they are. balance: takes turns between the
    different answers, in the order in which each appears first, until those of one are used up.

    It does not depend on how many are wanted: the examples of a prompt with few begin one with more.
    """
    places = list(range(len(answers)))
    if seed is not None:
        # Of Python's generator only `random` promises the same numbers in later versions, and not what shuffle makes of them.
        draw = random.Random(seed)
        keys = [draw.random() for _ in places]
        places.sort(key=keys.__getitem__)
    if not balance:
        return places
    turn: dict[Hashable, int] = {}
    first: dict[Hashable, int] = {}
    turns: dict[int, int] = {}
    for at, place in enumerate(places):
        answer = answers[place]
        first.setdefault(answer, at)
        turns[place] = turn[answer] = turn.get(answer, -1) + 1
    return sorted(places, key=lambda place: (turns[place], first[answers[place]]))
