"""Questions and marks."""

from dataclasses import replace

import numpy as np
import pytest

from recsys import retrieval
from recsys.bundle import Bundle
from recsys.config import Placement
from recsys.evaluation.evaluate import evaluate
from recsys.evaluation.split import Split, split
from recsys.logs import log_from_frame
from recsys.training import train
from recsys.tuning.questions import Exam, exams, with_past
from tests.synthetic import returning, small_config

PLACEMENTS = {"default": Placement(exclude=("any",)), "all": Placement(exclude=())}


@pytest.fixture(scope="module")
def parts() -> Split:
    return split(log_from_frame(returning(60)), "40%")


@pytest.fixture(scope="module")
def head(parts: Split) -> Bundle:
    config = small_config(training={"threads": 1}, ranker={"enabled": False})
    return train(parts.train, replace(config, placements=PLACEMENTS))


def both(head: Bundle, parts: Split, protocol: str, placement: str) -> Exam:
    search, proof = exams(head, parts.test, protocol, placement, 1)
    return search + proof


@pytest.mark.parametrize(
    ("protocol", "figures"),
    [("next-item", ("hr@20", "mrr@20")), ("rest-of-session", ("recall@20", "ndcg@20"))],
)
@pytest.mark.parametrize("placement", ["default", "all"])
def test_marks_are_the_figures_of_an_evaluation(
    head: Bundle, parts: Split, protocol: str, figures: tuple[str, str], placement: str
) -> None:
    """Where all moments are drawn, the mean mark is what `recsys evaluate` says of `full`."""
    exam = both(head, parts, protocol, placement).only(lambda question: not question.opening)
    marks, microseconds = exam.of_lists(head)
    report = evaluate(head, parts.test, protocol=protocol, placement=placement)
    assert len(marks) == report.samples
    figures_of_full = [report.systems["full"][name] for name in figures]
    assert marks.mean() == pytest.approx(np.mean(figures_of_full))
    assert microseconds > 0


def test_a_source_alone_is_marked_in_its_own_order(head: Bundle, parts: Split) -> None:
    """By what it proposes, without what the placement takes out."""
    exam = both(head, parts, "next-item", "default")
    marks, _ = exam.of_source(head, "item_knn")
    for mark, question in zip(marks, exam.questions, strict=True):
        who = retrieval.profile(head, question.moment.session(head.config))
        rows, _ = retrieval.SOURCES["item_knn"](head, who, len(head.items))
        shown = [row for row in rows.tolist() if row not in question.out.tolist()][:20]
        rank = next((n for n, row in enumerate(shown, 1) if row in question.targets), None)
        assert mark == pytest.approx((1 + 1 / rank) / 2 if rank else 0)
    assert marks.any()


def test_known_users_are_asked_before_their_session_too(head: Bundle, parts: Split) -> None:
    """There is nothing live then, and all of their past."""
    exam = both(head, parts, "next-item", "all")
    openings = exam.only(lambda question: question.opening)
    assert 0 < len(openings) < len(exam)
    sessions = [question.moment.session(head.config) for question in openings.questions]
    assert all(s.user_id in head.users and not s.current.items for s in sessions)  # type: ignore[operator]
    assert len(with_past(openings, head)) == len(openings)
    marks, _ = openings.of_lists(head)
    assert marks.any()


def test_strangers_have_no_opening(parts: Split, head: Bundle) -> None:
    """Nothing is known of them before their first event, so nothing can be said of an answer."""
    nobody = parts.test.frame.with_columns(user_id=None).cast({"user_id": str})
    anonymous = replace(parts, test=replace(parts.test, frame=nobody))
    exam = both(head, anonymous, "next-item", "all")
    assert not any(question.opening for question in exam.questions)
    assert not len(with_past(exam, head))


def test_a_gain_has_an_interval_over_visitors(head: Bundle, parts: Split) -> None:
    """The same for the same seed; nothing against itself is no gain."""
    exam = both(head, parts, "next-item", "all")
    good, bad = np.ones(len(exam)), np.zeros(len(exam))
    good[::3] = 0
    gain = exam.compare(bad, good, seed=1)
    assert gain == exam.compare(bad, good, seed=1)
    assert gain.value == pytest.approx(good.mean())
    assert gain.low is not None
    assert gain.high is not None
    assert gain.low < good.mean() < gain.high
    assert exam.compare(good, good, seed=1).to_dict() == {"value": 0, "low": 0, "high": 0}
