"""Which sources are asked."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from recsys.config import Config, config_from_dict
from recsys.evaluation.replay import Moment
from recsys.events import Event
from recsys.metrics import Floats
from recsys.tuning.questions import Exam, Question
from recsys.tuning.sources import Contribution, counts_of, weigh
from recsys.tuning.space import Values, value_of, values_of
from recsys.tuning.stages import Budget, Clock, Found, Stage
from recsys.tuning.trials import Trials, open_journal

SOURCES = ["transitions", "session_knn", "popular", "recent"]


def exam() -> Exam:
    moment = Moment(0, Event("view", "s"), None, 1, (), ())
    asked = Question(moment, np.zeros(1, np.int32), 1, np.zeros(0, np.int32), "s", opening=False)
    return Exam(tuple([asked] * 10), ("hr", "mrr"), "default")


def weighed(
    path: Path, mark: Callable[[set[str]], float], budget: Budget | None = None
) -> tuple[Found, dict[str, Contribution]]:
    """The outcome where a list is worth what ``mark`` says of the sources that are on."""

    def ask(config: Config, exam: Exam) -> tuple[Floats, float]:
        on = {s for s in SOURCES if value_of(config, f"retrieval.{s}")}
        return np.full(len(exam), mark(on)), 100.0 * len(on)

    config = config_from_dict({"retrieval": {"transitions": 30, "popular": 20, "recent": 0}})
    config = config.settled(simultaneous=False)
    settings = counts_of(SOURCES)
    stage = Stage("sources", 1, settings, ask, exam(), exam())
    trials = Trials(open_journal(path), "x", settings, values_of(config, settings), 0)
    clock = Clock("sources", budget or Budget(None, 1), None, 8, None)
    found, sources = weigh(stage, config, trials, clock, min_gain=0.001)
    return found, {source.source: source for source in sources}


def test_a_source_that_brings_nothing_is_turned_off(tmp_path: Path) -> None:
    """What each brings and costs is told; the start has three of the four on."""
    worth = {"transitions": 0.1, "session_knn": 0.2, "popular": 0.0005, "recent": 0.0}
    found, sources = weighed(tmp_path / "j", lambda on: sum(worth[s] for s in on))
    assert found.kept == {"retrieval.popular": 0}
    assert sources["session_knn"].gain == pytest.approx(0.2)
    assert sources["session_knn"].microseconds == 100
    assert [name for name, source in sources.items() if source.on] == ["transitions", "session_knn"]


def test_a_source_that_is_off_is_turned_on_where_it_helps(tmp_path: Path) -> None:
    """Even though the defaults do not ask it."""
    worth = {"transitions": 0.1, "session_knn": 0.2, "popular": 0.1, "recent": 0.05}
    found, _ = weighed(tmp_path / "j", lambda on: sum(worth[s] for s in on))
    assert found.kept == {"retrieval.recent": 40}


def test_of_two_that_know_the_same_one_stays(tmp_path: Path) -> None:
    """Each could go while the other is there, but not both."""
    found, _ = weighed(tmp_path / "j", lambda on: 0.5 * bool(on & {"transitions", "session_knn"}))
    off: Values = found.kept
    assert len(off.keys() & {"retrieval.transitions", "retrieval.session_knn"}) == 1


def test_all_that_is_turned_off_costs_less_than_one_may(tmp_path: Path) -> None:
    """Small losses do not add up unseen."""
    found, _ = weighed(tmp_path / "j", lambda on: 0.0006 * len(on))
    assert len(found.kept) == 1


def test_without_time_everything_stays(tmp_path: Path) -> None:
    """What was not weighed is not turned off."""
    budget = Budget(None, 1)
    budget.interrupted = True
    found, sources = weighed(tmp_path / "j", lambda _on: 0.5, budget)
    assert not found.kept
    assert not sources
