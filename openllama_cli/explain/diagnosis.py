"""What `olc explain` answers: the known errors of a text, the root cause first, and what is said when none is known."""

from collections.abc import Sequence
from dataclasses import dataclass

from openllama_cli.explain.catalogue import KnownError
from openllama_cli.explain.nearest import Nearest
from openllama_cli.explain.own_code import OwnLine

# Vaguer entries are hidden by a more precise one in the same traceback: this many lines apart at most.
SAME_FAILURE = 400
# Where an entry stands among the others; 0 and 2 are for what leads to another one, and for what follows from one.
_LEVELS = {"cause": 1, "general": 3, "warning": 4, "consequence": 5}
_CAUSES = ("cause", "general")


@dataclass(frozen=True)
class Explanation:
    """A known error in a text. line: where it was recognized, without secrets. line_number: counted from 1.

    own_line: the last line of the user's own code in the traceback that ends there.
    """

    error: KnownError
    line: str
    line_number: int
    own_line: OwnLine | None = None


@dataclass(frozen=True)
class Unknown:
    """What is said last in a text that nothing known explains. library: whose code raised it, if a traceback tells."""

    line: str
    line_number: int
    library: str | None
    own_line: OwnLine | None = None
    nearest: tuple[Nearest, ...] = ()


@dataclass(frozen=True)
class Diagnosis:
    """explanations: the root cause first. unknown: None if a cause was found, or if nothing in the text reads like an error."""

    explanations: tuple[Explanation, ...]
    unknown: Unknown | None


def has_cause(explanations: Sequence[Explanation], *, exactly: bool = False) -> bool:
    """Whether a cause is among them, and not only warnings and consequences. exactly: not only what any package may say."""
    return any(one.error.rank in _CAUSES[: 1 if exactly else 2] for one in explanations)


def ranked(explanations: Sequence[Explanation]) -> tuple[Explanation, ...]:
    """Without the vaguer ones of the same failure; what leads to others first, then causes in the order of the text.

    An exception that was raised while another one was handled is printed after it, so the first of several causes is the most
    likely root.
    """
    hidden = {
        vague.error.code
        for precise in explanations
        for vague in explanations
        if vague.error.code in precise.error.hides and abs(vague.line_number - precise.line_number) <= SAME_FAILURE
    }
    # What any package may say is not told of a line that is known more exactly.
    exact = {one.line_number for one in explanations if one.error.rank != "general"}
    hidden |= {one.error.code for one in explanations if one.error.rank == "general" and one.line_number in exact}
    kept = [one for one in explanations if one.error.code not in hidden]
    failures = {one.error.code for one in kept if one.error.rank != "consequence"}
    followers = {code for one in kept for code in one.error.leads_to}

    def order(one: Explanation) -> tuple[int, int]:
        rank = one.error.rank
        if rank not in ("general", "consequence") and failures.intersection(one.error.leads_to):
            return 0, one.line_number
        follows = rank == "cause" and one.error.code in followers
        return 2 if follows else _LEVELS[rank], one.line_number

    return tuple(sorted(kept, key=order))
