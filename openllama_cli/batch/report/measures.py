"""What a report counts: accuracy with its interval, precision and recall, confusion, calibration."""

import bisect
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from openllama_cli.batch.report.rows import Outcome

# Of the standard normal distribution: 95 % lie within.
_Z = 1.959963984540054
# Equally wide bins of confidence.
BINS = 10
_EDGES = [place / BINS for place in range(1, BINS + 1)]
# Labels of a confusion table, the most frequent ones; all others are one.
MOST_LABELS = 8
OTHER = "(other)"
# What a completion may have more than an answer without meaning another one.
_PUNCTUATION = " \t\r\n.,;:!?\"'"


def wilson(correct: int, total: int) -> tuple[float, float]:
    """The 95 % score interval of a proportion, total >= 1.

    E. B. Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927), 209-212. Unlike the
    normal approximation it holds for few rows and for proportions near 0 and 1.
    """
    share, square = correct / total, _Z * _Z
    center = (share + square / (2 * total)) / (1 + square / total)
    half = _Z / (1 + square / total) * math.sqrt(share * (1 - share) / total + square / (4 * total * total))
    # At the ends rounding would leave 1e-17 for 0.
    return 0.0 if correct == 0 else center - half, 1.0 if correct == total else center + half


@dataclass
class Calibration:
    """How often rows are right that were this sure. confidence: the probability of the choice that was taken.

    counts, confidences, hits: of each bin, ((m - 1) / BINS, m / BINS]: rows, the sum of their confidences, those right.
    """

    counts: list[int] = field(default_factory=lambda: [0] * BINS)
    confidences: list[float] = field(default_factory=lambda: [0.0] * BINS)
    hits: list[int] = field(default_factory=lambda: [0] * BINS)
    squares: float = 0.0

    def add(self, answer: str, probabilities: dict[str, float], *, correct: bool) -> None:
        """Count a row. answer, and the names of probabilities: stripped."""
        confidence = max(probabilities.values())
        place = min(bisect.bisect_left(_EDGES, confidence), BINS - 1)
        self.counts[place] += 1
        self.confidences[place] += confidence
        self.hits[place] += correct
        # An answer that is none of the choices had a probability of 0.
        missed = 1.0 - probabilities.get(answer, 0.0)
        rest = sum(value * value for name, value in probabilities.items() if name != answer)
        self.squares += missed * missed + rest

    @property
    def rows(self) -> int:
        """Rows that were counted."""
        return sum(self.counts)

    @property
    def error(self) -> float:
        """The expected calibration error: the mean distance of accuracy and confidence over the bins, weighted by their rows.

        C. Guo, G. Pleiss, Y. Sun and K. Q. Weinberger, "On calibration of modern neural networks", ICML 2017, equation 3.
        """
        gaps = (abs(hits - sure) for hits, sure in zip(self.hits, self.confidences, strict=True))
        return sum(gaps) / self.rows

    @property
    def brier(self) -> float:
        """The Brier score over all choices, 0 to 2 (G. W. Brier, "Verification of forecasts expressed in terms of probability",
        Monthly Weather Review 78, 1950)."""
        return self.squares / self.rows

    def document(self) -> dict[str, Any]:
        """The fields of the report."""
        bins = [
            {
                "from": place / BINS,
                "to": (place + 1) / BINS,
                "rows": count,
                "confidence": sure / count if count else None,
                "accuracy": hits / count if count else None,
            }
            for place, (count, sure, hits) in enumerate(zip(self.counts, self.confidences, self.hits, strict=True))
        ]
        confidence = sum(self.confidences) / self.rows
        return {"rows": self.rows, "ece": self.error, "brier": self.brier, "confidence": confidence, "bins": bins}


@dataclass
class Report:
    """Counts rows as they come.

    A text is right if it is the answer, whitespace around both aside; case and punctuation count. A row without an answer, or
    one that failed, is counted as such and as nothing else. pairs: (answer, text) → rows.
    """

    rows: int = 0
    failed: int = 0
    without_answer: int = 0
    pairs: Counter[tuple[str, str]] = field(default_factory=Counter)
    calibration: Calibration = field(default_factory=Calibration)

    @classmethod
    def of(cls, outcomes: Iterable[Outcome]) -> "Report":
        """The report on all of these."""
        report = cls()
        for outcome in outcomes:
            report.add(outcome)
        return report

    def add(self, outcome: Outcome) -> None:
        """Count a row."""
        self.rows += 1
        if outcome.answer is None:
            self.without_answer += 1
        elif outcome.text is None:
            self.failed += 1
        else:
            answer, text = outcome.answer.strip(), outcome.text.strip()
            self.pairs[answer, text] += 1
            if outcome.probabilities is not None:
                chosen = {name.strip(): value for name, value in outcome.probabilities.items()}
                self.calibration.add(answer, chosen, correct=answer == text)

    @property
    def compared(self) -> int:
        """Rows with an answer and a text."""
        return self.pairs.total()

    @property
    def correct(self) -> int:
        """Those of them that are right."""
        return sum(count for (answer, text), count in self.pairs.items() if answer == text)

    @property
    def nearly(self) -> int:
        """Those that are wrong by case, or by punctuation around them, only."""
        return sum(count for (answer, text), count in self.pairs.items() if answer != text and _plain(answer) == _plain(text))

    def document(self) -> dict[str, Any]:
        """The report, in types that JSON has; `compared` is at least 1."""
        correct, compared = self.correct, self.compared
        answers = self._answers()
        return {
            "rows": self.rows,
            "failed": self.failed,
            "without_answer": self.without_answer,
            "compared": compared,
            "correct": correct,
            "accuracy": correct / compared,
            "interval": list(wilson(correct, compared)),
            "nearly": self.nearly,
            "answers": answers,
            "confusion": self._confusion([each["answer"] for each in answers[:MOST_LABELS]], more=len(answers) > MOST_LABELS),
            "calibration": self.calibration.document() if self.calibration.rows else None,
        }

    def _answers(self) -> list[dict[str, Any]]:
        """Every answer, the most frequent first."""
        expected: Counter[str] = Counter()
        given: Counter[str] = Counter()
        for (answer, text), count in self.pairs.items():
            expected[answer] += count
            given[text] += count
        found = []
        for answer, rows in expected.most_common():
            right, texts = self.pairs[answer, answer], given[answer]
            precision, recall = right / texts if texts else None, right / rows
            f1 = 2 * right / (rows + texts)
            found.append(
                {
                    "answer": answer,
                    "rows": rows,
                    "texts": texts,
                    "correct": right,
                    "precision": precision,
                    "recall": recall,
                    "f1": f1,
                }
            )
        return found

    def _confusion(self, labels: list[str], *, more: bool) -> dict[str, Any]:
        """How often a row of an answer got a text. more: whether there are answers beside these."""
        places = {label: place for place, label in enumerate(labels)}
        size = len(labels)
        counts = [[0] * (size + 1) for _ in range(size + more)]
        for (answer, text), count in self.pairs.items():
            counts[places.get(answer, size)][places.get(text, size)] += count
        return {"answers": [*labels, *[OTHER] * more], "texts": [*labels, OTHER], "counts": counts}


def _plain(text: str) -> str:
    return text.strip(_PUNCTUATION).casefold()
