"""What a report counts, against values that are known from elsewhere or worked out by hand."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openllama_cli.batch.report.measures import MOST_LABELS, OTHER, Report, wilson
from openllama_cli.batch.report.rows import Outcome


@pytest.mark.parametrize(
    ("correct", "total", "low", "high"),
    [
        # R. G. Newcombe, "Two-sided confidence intervals for the single proportion: comparison of seven methods", Statistics in
        # Medicine 17 (1998), table I, method 3.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_the_interval_is_the_published_one(correct: int, total: int, low: float, high: float) -> None:
    assert [round(bound, 4) for bound in wilson(correct, total)] == [low, high]
    assert [round(bound, 4) for bound in wilson(total - correct, total)] == [round(1 - high, 4), round(1 - low, 4)]


@given(st.integers(1, 10**6).flatmap(lambda total: st.tuples(st.integers(0, total), st.just(total))))
def test_the_interval_has_the_bounds_where_the_score_test_turns(pair: tuple[int, int]) -> None:
    """Wilson's bounds p solve (share - p)² = z² p (1 - p) / n."""
    correct, total = pair
    low, high = wilson(correct, total)
    assert 0 <= low <= correct / total <= high <= 1
    for bound in (low, high):
        square = 1.959963984540054**2 * bound * (1 - bound) / total
        assert math.isclose((correct / total - bound) ** 2, square, rel_tol=1e-6, abs_tol=1e-14)


def test_a_text_is_right_if_it_is_the_answer_but_for_whitespace_around_it() -> None:
    pairs = [
        ("Paris", " Paris"),
        ("Paris ", "Paris\n"),
        ("Paris", "paris"),
        ("Paris", "Paris."),
        ("Paris", "Par is"),
        ("a", "b"),
    ]
    report = Report.of(Outcome(answer, text) for answer, text in pairs)
    assert (report.compared, report.correct, report.nearly) == (6, 2, 2)


def test_rows_that_failed_or_have_no_answer_are_counted_apart() -> None:
    outcomes = [Outcome("a", "a"), Outcome("a", None), Outcome(None, "a"), Outcome(None, None), Outcome("b", "a")]
    document = Report.of(outcomes).document()
    numbers = {name: document[name] for name in ("rows", "failed", "without_answer", "compared", "correct", "accuracy")}
    assert numbers == {"rows": 5, "failed": 1, "without_answer": 2, "compared": 2, "correct": 1, "accuracy": 0.5}
    assert document["calibration"] is None


def test_precision_recall_and_confusion_by_hand() -> None:
    counts = {("cat", "cat"): 6, ("cat", "dog"): 2, ("dog", "dog"): 3, ("dog", "cat"): 1, ("dog", "cow"): 1, ("owl", "dog"): 1}
    report = Report.of(Outcome(answer, text) for (answer, text), count in counts.items() for _ in range(count))
    document = report.document()
    cat, dog, owl = document["answers"]
    assert cat == {"answer": "cat", "rows": 8, "texts": 7, "correct": 6, "precision": 6 / 7, "recall": 6 / 8, "f1": 12 / 15}
    assert dog == {"answer": "dog", "rows": 5, "texts": 6, "correct": 3, "precision": 3 / 6, "recall": 3 / 5, "f1": 6 / 11}
    assert (owl["precision"], owl["recall"], owl["f1"]) == (None, 0.0, 0.0)
    assert document["confusion"] == {
        "answers": ["cat", "dog", "owl"],
        "texts": ["cat", "dog", "owl", OTHER],
        "counts": [[6, 2, 0, 0], [1, 3, 0, 1], [0, 1, 0, 0]],
    }


def test_of_many_answers_the_most_frequent_have_a_place() -> None:
    outcomes = [Outcome(f"a{place}", f"a{place}") for place in range(20) for _ in range(20 - place)]
    confusion = Report.of(outcomes).document()["confusion"]
    assert confusion["answers"] == confusion["texts"] == [*(f"a{place}" for place in range(MOST_LABELS)), OTHER]
    assert [line[place] for place, line in enumerate(confusion["counts"])][:2] == [20, 19]
    assert confusion["counts"][-1] == [0] * MOST_LABELS + [sum(range(1, 13))]


def sure(confidence: float, *, right: bool) -> Outcome:
    """A row that chose between two."""
    return Outcome("yes" if right else "no", " yes", {"yes": confidence, "no": 1 - confidence})


def test_calibration_by_hand() -> None:
    outcomes = [
        *(sure(0.95, right=place != 0) for place in range(4)),  # 0.75 right
        *(sure(0.9, right=True) for _ in range(2)),  # at the end of a bin, which is part of it
        *(sure(0.65, right=place == 0) for place in range(4)),  # 0.25 right
    ]
    calibration = Report.of(outcomes).document()["calibration"]
    bins = {round(each["to"], 1): each for each in calibration["bins"] if each["rows"]}
    assert {to: (each["rows"], each["accuracy"]) for to, each in bins.items()} == {
        0.7: (4, 0.25),
        0.9: (2, 1.0),
        1.0: (4, 0.75),
    }
    assert bins[0.9]["confidence"] == pytest.approx(0.9)
    # 4/10 · |0.75 - 0.95| + 2/10 · |1 - 0.9| + 4/10 · |0.25 - 0.65|
    assert calibration["ece"] == pytest.approx(0.26)
    squares = 3 * 2 * 0.05**2 + 2 * 0.95**2 + 2 * 2 * 0.1**2 + 2 * 0.35**2 + 3 * 2 * 0.65**2
    assert calibration["brier"] == pytest.approx(squares / 10)
    assert calibration["confidence"] == pytest.approx((4 * 0.95 + 2 * 0.9 + 4 * 0.65) / 10)


@pytest.mark.parametrize("tenth", range(1, 11))
def test_the_end_of_a_bin_belongs_to_it(tenth: int) -> None:
    bins = Report.of([Outcome("a", "a", {"a": tenth / 10})]).document()["calibration"]["bins"]
    assert [each["to"] for each in bins if each["rows"]] == [tenth / 10]


def test_an_answer_that_is_no_choice_had_no_probability() -> None:
    calibration = Report.of([Outcome("maybe", "yes", {"yes": 0.8, "no": 0.2})]).document()["calibration"]
    assert calibration["brier"] == pytest.approx(1 + 0.8**2 + 0.2**2)
    assert calibration["ece"] == pytest.approx(0.8)


def test_a_model_that_knows_what_it_knows_has_no_error() -> None:
    outcomes = [sure(0.75, right=place % 4 != 0) for place in range(400)]
    assert Report.of(outcomes).document()["calibration"]["ece"] == pytest.approx(0, abs=1e-12)
