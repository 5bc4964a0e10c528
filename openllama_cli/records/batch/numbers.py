"""The log-probabilities in rows that have a number as their result: of choices, of texts that are scored."""

from collections.abc import Mapping
from typing import Any

from openllama_cli.compare.entries import is_logprob
from openllama_cli.generation.choices.scores import ScoredChoice

# Tokens that no text has.
_MANY = 1 << 40


class Choice(ScoredChoice):
    """A choice as a file has it."""

    def weight(self, normalize: str) -> float:
        """By how much its score may differ if the log-probability of every token does by 1."""
        return {"sum": self.tokens, "token": 1.0}.get(normalize, self.tokens / max(self.bytes, 1))


def choices_of(document: Mapping[str, Any]) -> dict[str, Choice]:
    """The choices of a row of OUTPUT by their texts; none of a row that has none, or in another form."""
    if isinstance(response := document.get("response"), dict):
        body = response.get("body")
        olc = body.get("olc") if isinstance(body, dict) else None
        found = olc.get("choices") if isinstance(olc, dict) else None
    else:
        found = document.get("choices")
    try:
        return {one["text"]: Choice(**one) for one in found or ()}
    except (TypeError, KeyError):
        return {}


def numbers_of(document: Mapping[str, Any]) -> dict[str, tuple[float, int]]:
    """Log-probabilities with the numbers of tokens that they are sums of, by what they are of: a choice, or "" the text."""
    found: dict[str, tuple[Any, Any]] = {text: (one.logprob, one.tokens) for text, one in choices_of(document).items()}
    if isinstance(score := document.get("score"), dict):
        found[""] = (score.get("logprob"), score.get("tokens"))
    known = {
        name: pair for name, pair in found.items() if is_logprob(pair[0]) and type(pair[1]) is int and 0 <= pair[1] < _MANY
    }
    return {name: (float(logprob), tokens) for name, (logprob, tokens) in known.items()}
