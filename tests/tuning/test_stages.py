"""Time, and what a stage keeps of what it found."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from recsys.config import Config, config_from_dict
from recsys.metrics import Estimate, Floats
from recsys.tuning import stages
from recsys.tuning.questions import Exam
from recsys.tuning.space import SESSION_KNN, Values, value_of, values_of
from recsys.tuning.stages import PATIENCE, Budget, Clock, Found, Stage, search
from recsys.tuning.trials import Trials, open_journal
from tests.tuning.test_sources import exam

SETTINGS = tuple(s for s in SESSION_KNN if s.name.endswith((".decay", "match_idf", "vote_idf")))


def found(
    path: Path, mark: Callable[[Values], float], budget: Budget, proof: float = 1.0
) -> tuple[Found, int]:
    """What a search finds where a configuration is worth ``mark``, and how often it asked.

    proof: times the mark, on the questions for the proof.
    """
    asked = []
    searched, proven = exam(), exam()

    def ask(config: Config, exam: Exam) -> tuple[Floats, float]:
        asked.append(exam)
        values = {s.name: value_of(config, s.name) for s in SETTINGS}
        return np.full(len(exam), mark(values) * (proof if exam is proven else 1.0)), 1.0

    config = config_from_dict({"session_knn": {"decay": 0.6}})
    stage = Stage("s", 1, SETTINGS, ask, searched, proven)
    trials = Trials(open_journal(path), "s", SETTINGS, values_of(config, SETTINGS), 0)
    return search(stage, config, trials, Clock("s", budget, None, 1, None)), len(asked)


def by_decay(values: Values) -> float:
    return 1 - abs(values["session_knn.decay"] - 1.0)


def test_only_what_is_needed_is_changed(tmp_path: Path) -> None:
    """Settings that make no difference stay as they were; the others say what they bring."""
    result, _ = found(tmp_path / "j", by_decay, Budget(None, 20))
    assert list(result.kept) == list(result.brought) == ["session_knn.decay"]
    assert result.before == {"session_knn.decay": 0.6}
    gain = by_decay(result.values) - by_decay(result.before)
    assert result.brought["session_knn.decay"] == pytest.approx(gain)
    assert result.gain is not None
    assert result.gain.value == pytest.approx(gain)


def test_what_fails_the_proof_is_not_kept(tmp_path: Path) -> None:
    """Better for the search and worse for other visitors: found, shown, not kept."""
    result, _ = found(tmp_path / "j", by_decay, Budget(None, 20), proof=-1.0)
    assert result.values
    assert result.gain is not None
    assert result.gain.value is not None
    assert result.gain.value < 0
    assert result.kept == {}


def test_where_nothing_is_better_nothing_is_changed(tmp_path: Path) -> None:
    """Without a limit of trials the stage ends when it has not found anything for long."""
    result, asked = found(tmp_path / "j", lambda _values: 0.5, Budget(None, None))
    assert not result.values
    assert result.gain is None
    assert asked <= PATIENCE + 1


def test_what_the_proof_barely_shows_is_not_kept() -> None:
    """A gain that is next to nothing would only make the file longer."""
    changed = Found("s", 1, {"session_knn.decay": 0.3}, {"session_knn.decay": 0.6})
    for value, kept in ((0.0001, False), (0.002, True)):
        result = Found(**{**vars(changed), "gain": Estimate(value, None, None)})
        assert bool(result.kept) == kept


def test_no_gain_at_all_is_needed_where_the_aim_is_speed() -> None:
    """A source turned off may cost a little; more than that it may not."""
    off = Found("sources", 1, {"retrieval.popular": 0}, {"retrieval.popular": 20}, least=-0.001)
    for value, kept in ((-0.0005, True), (-0.002, False)):
        result = Found(**{**vars(off), "gain": Estimate(value, None, None)})
        assert bool(result.kept) == kept


def test_the_time_is_shared_by_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of what is left when a stage begins, without what is kept for the end."""
    now = 100.0
    monkeypatch.setattr(stages, "monotonic", lambda: now)
    budget = Budget(10, None)
    budget.reserve(120)
    assert budget.share(1, of=4) == 120
    clock = Clock("s", budget, budget.share(1, of=4), 1, None)
    assert clock.used == 0
    now += 60
    assert clock.used == 0.5
    assert budget.share(1, of=3) == 140
    now += 60
    assert clock.over
    now += 1000
    assert budget.share(1, of=2) == 0
    assert Budget(None, 3).share(1, of=2) is None


def test_an_interrupt_ends_every_clock() -> None:
    """What runs is left at once; no later search begins."""
    budget = Budget(10, None)
    clock = Clock("s", budget, 100, 1, None)
    assert not clock.over
    with budget.interruptible():
        raise KeyboardInterrupt
    assert clock.over
