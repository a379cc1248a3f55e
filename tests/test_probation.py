"""The sequential test of a bundle in live traffic."""

import math

import pytest

from recsys.probation import ALARM, ENOUGH, KEPT, LONGEST, SURE, WORSE, Counts, evidence, outcome


def crossed(visitors: int, share: float, threshold: float) -> float:
    """The probability that evidence ever reaches a threshold, looked at after each visitor.

    share: of the visitors that speak against the bundle. Exact: all ways are followed.
    """
    alive, reached = {0: 1.0}, 0.0
    for count in range(1, visitors + 1):
        following: dict[int, float] = {}
        for against, chance in alive.items():
            following[against] = following.get(against, 0.0) + chance * (1 - share)
            following[against + 1] = following.get(against + 1, 0.0) + chance * share
        alive = {}
        for against, chance in following.items():
            if evidence(against, count - against) >= math.log(threshold):
                reached += chance
            else:
                alive[against] = chance
    return reached


def test_one_that_is_as_good_is_hardly_ever_rolled_back() -> None:
    """However often one looks; nor is one that is better."""
    assert 0 < crossed(300, 0.5, 1 / ALARM) < ALARM
    assert crossed(300, 0.4, 1 / ALARM) < ALARM / 100
    assert crossed(300, 0.5, 1 / SURE) < SURE


@pytest.mark.parametrize(("share", "visitors"), [(1.0, 14), (0.9, 40), (0.7, 250)])
def test_one_that_is_worse_is_found_out(share: float, visitors: int) -> None:
    """The sooner the worse it is."""
    assert crossed(visitors, share, 1 / ALARM) > 0.95


@pytest.mark.parametrize("against", [0, 3, 40])
@pytest.mark.parametrize("for_", [0, 5, 700])
def test_evidence_of_the_next_visitor_is_fair(against: int, for_: int) -> None:
    """Of a bundle that is as good it is expected to stay what it is: what Ville asks for."""
    ways = [evidence(against + 1, for_), evidence(against, for_ + 1)]
    assert sum(map(math.exp, ways)) / 2 == pytest.approx(math.exp(evidence(against, for_)))


@pytest.mark.parametrize(
    ("counts", "age", "wanted"),
    [
        (Counts(), 0.0, None),
        (Counts(scored=100, own_only=5, former_only=12), 0.0, None),
        (Counts(scored=100, former_only=14), 0.0, WORSE),
        (Counts(scored=100, own_only=14), 0.0, KEPT),
        (Counts(scored=ENOUGH, own_only=50, former_only=60), 0.0, KEPT),
        (Counts(scored=ENOUGH, own_only=50, former_only=160), 0.0, WORSE),
        (Counts(), LONGEST, KEPT),
        (Counts(ended=WORSE, own_only=50), 0.0, WORSE),
    ],
)
def test_how_a_probation_ends(counts: Counts, age: float, wanted: str | None) -> None:
    """By what visitors show, by how many events were scored, by time; once it has, it has."""
    assert outcome(counts, age) == wanted


def test_evidence_holds_for_large_counts() -> None:
    """Nothing overflows, and what nearly all speak for has next to none against it."""
    assert evidence(100_000, 0) > evidence(10_000, 0) > 1000
    assert evidence(0, 100_000) == -math.inf
