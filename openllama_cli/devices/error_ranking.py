"""What was found in a text, and in which order it is told: the root cause first."""

from dataclasses import dataclass

from openllama_cli.devices.known_errors import KnownError

# Vaguer entries are hidden by a more precise one in the same traceback: this many lines apart at most.
_SAME_FAILURE = 400
# Where an entry stands among the others; 0 and 2 are for what leads to another one, and for what follows from one.
_LEVELS = {"cause": 1, "warning": 3, "consequence": 4}


@dataclass(frozen=True)
class Explanation:
    """A known error in a text. line: where it was recognised, without secrets. line_number: counted from 1."""

    error: KnownError
    line: str
    line_number: int


@dataclass(frozen=True)
class OwnMessage:
    """The two lines of an error of olc that is not in the catalogue: it says itself what to do."""

    cause: str
    remedy: str
    line_number: int


@dataclass(frozen=True)
class Unknown:
    """What is said last in a text that nothing known explains. library: whose code raised it, if a traceback tells."""

    line: str
    line_number: int
    library: str | None


@dataclass(frozen=True)
class Diagnosis:
    """explanations: the root cause first. own: an olc message outside the catalogue. unknown: None if a cause was found."""

    explanations: tuple[Explanation, ...]
    own: OwnMessage | None
    unknown: Unknown | None


def ranked(explanations: list[Explanation]) -> tuple[Explanation, ...]:
    """Without the vaguer ones of the same failure; what leads to others first, then causes in the order of the text.

    An exception that was raised while another one was handled is printed after it, so the first of several causes is
    the likeliest root.
    """
    hidden = {
        vague.error.code
        for precise in explanations
        for vague in explanations
        if vague.error.code in precise.error.hides and abs(vague.line_number - precise.line_number) <= _SAME_FAILURE
    }
    kept = [one for one in explanations if one.error.code not in hidden]
    followers = {code for one in kept for code in one.error.leads_to}

    def order(one: Explanation) -> tuple[int, int]:
        if any(other.error.code in one.error.leads_to for other in kept):
            return 0, one.line_number
        follows = one.error.rank == "cause" and one.error.code in followers
        return 2 if follows else _LEVELS[one.error.rank], one.line_number

    return tuple(sorted(kept, key=order))
