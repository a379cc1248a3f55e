"""Searching settings, stopping and going on."""

from pathlib import Path

import pytest

from recsys.tuning.space import Setting, Values
from recsys.tuning.trials import Trials, Worth, open_journal

SETTINGS = (
    Setting("t.fitted", 1, 100, log=True, whole=True, fit=True),
    Setting("t.asked", 0.0, 1.0),
)
START: Values = {"t.fitted": 50, "t.asked": 0.123}


def hill(values: Values, _look: bool) -> Worth:
    """Highest at 10 and 0.5."""
    return Worth(-abs(values["t.fitted"] - 10) / 100 - abs(values["t.asked"] - 0.5), 1.0)


def searched(path: Path, steps: int) -> Trials:
    trials = Trials(open_journal(path), "hill", SETTINGS, START, seed=1)
    while trials.searched < steps:
        trials.step(hill)
    return trials


def test_the_start_is_the_first_trial(tmp_path: Path) -> None:
    """It is tried as it is, though no trial of the sampler would have that value."""
    trials = searched(tmp_path / "j", 1)
    assert trials.best == START
    assert trials.worth(START, hill).mark == hill(START, False).mark


def test_a_search_finds_better_and_readable_values(tmp_path: Path) -> None:
    """Values come near the best ones and have two digits."""
    trials = searched(tmp_path / "j", 40)
    assert hill(trials.best, False).mark > -0.1
    tried = [dict(zip(START, key, strict=True)) for key in trials.known]
    assert all(float(f"{v:.2g}") == v for t in tried if t != START for v in t.values())


def test_fits_are_shared(tmp_path: Path) -> None:
    """Every other trial keeps a fit that is there already."""
    trials = searched(tmp_path / "j", 40)
    assert len({fitted for fitted, _ in trials.known}) <= 21


def test_a_stopped_search_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    """Stopped anywhere and opened again, the same trials follow; none is done twice."""
    whole = searched(tmp_path / "whole", 16)
    for steps in (1, 2, 9, 16):
        parts = searched(tmp_path / "parts", steps)
    assert list(parts.known.items()) == list(whole.known.items())


def test_a_line_that_a_kill_cut_off_is_dropped(tmp_path: Path) -> None:
    """The journal opens, holds the trials before it and takes new ones."""
    path = tmp_path / "j"
    before = searched(path, 5).known
    with path.open("a") as file:
        file.write('{"op_code": 4, "work')
    after = searched(path, 6).known
    assert list(after.items())[:5] == list(before.items())
    assert searched(path, 6).known == after


def test_known_values_are_not_asked_for_again(tmp_path: Path) -> None:
    """Given values are looked up; they do not count as a step of the search."""
    trials = searched(tmp_path / "j", 3)
    other: Values = {"t.fitted": 10, "t.asked": 0.5}
    asked: list[Values] = []

    def counting(values: Values, look: bool) -> Worth:
        asked.append(values)
        return hill(values, look)

    assert trials.worth(other, counting) == trials.worth(other, counting) == Worth(0.0, 1.0)
    assert asked == [other]
    assert searched(tmp_path / "j", 3).best == other
    assert trials.searched == 3


def test_a_bad_first_look_ends_a_trial(tmp_path: Path) -> None:
    """Once enough looks are known, values that look worse than the median are not tried whole."""
    looks: list[float] = []
    whole: list[float] = []

    def objective(values: Values, look: bool) -> Worth:
        worth = hill(values, look)
        (looks if look else whole).append(worth.mark)
        return worth

    trials = Trials(open_journal(tmp_path / "j"), "hill", SETTINGS, START, seed=1)
    while trials.searched < 20:
        trials.step(objective, first_look=True)
    assert len(whole) < len(looks)
    assert max(whole) == max(looks + whole)


@pytest.mark.parametrize("start", [0, 7, 500])
def test_a_range_holds_the_start_wherever_it_is(start: int) -> None:
    """Even where a person chose a value that no search would."""
    setting = Setting("t.n", 10, 100, log=True, whole=True)
    assert setting.distribution(start)._contains(start)
    assert setting.rounded(start, start) == start
