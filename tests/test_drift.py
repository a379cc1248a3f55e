"""A fall of live hits is told of once; chance and another bundle are no fall."""

import numpy as np
import pytest

from recsys.drift import WINDOW, Drift, fallen


def told(
    drift: Drift,
    rate: float,
    events: int,
    seed: int = 0,
    version: str = "a",
    alike: float = 0.2,
) -> list[str]:
    """What is said while so many more events are scored, five of a session at a time.

    alike: correlation of the hits of a session.
    """
    scored, hits = drift.marks[-1] if drift.version == version and drift.marks else (0, 0)
    rng, said = np.random.default_rng(seed), []
    both = (1 - alike) / alike
    for _ in range(events // 5):
        own = rng.beta(rate * both, (1 - rate) * both)
        scored, hits = scored + 5, hits + int(rng.binomial(5, own))
        said.append(drift.look(version, scored, hits))
    return [words for words in said if words]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("rate", [0.05, 0.5])
def test_chance_is_no_fall(seed: int, rate: float) -> None:
    """However often one looks, and although the hits of a session hang together."""
    assert told(Drift(), rate, 50 * WINDOW, seed) == []


def test_a_fall_is_told_of_once() -> None:
    """Within a window of events; what comes after it is measured by itself."""
    drift = Drift()
    assert told(drift, 0.5, 3 * WINDOW) == []
    (words,) = told(drift, 0.3, 5 * WINDOW)
    assert words.startswith("live hits have fallen to 0.")
    assert " from 0.5" in words or " from 0.4" in words
    assert told(drift, 0.1, WINDOW * 2) != []


def test_a_rise_is_no_fall() -> None:
    """Nor is a level that was always low."""
    drift = Drift()
    assert told(drift, 0.1, 3 * WINDOW) + told(drift, 0.6, 3 * WINDOW) == []


def test_another_bundle_begins_anew() -> None:
    """As does a store that has lost its data; nothing is compared across."""
    drift = Drift()
    assert told(drift, 0.6, 3 * WINDOW) == []
    assert told(drift, 0.2, 3 * WINDOW, version="b") == []
    assert drift.look("b", 10, 2) is None
    assert list(drift.marks) == [(10, 2)]


def test_a_small_fall_is_not_worth_a_refit() -> None:
    """However certain it is; nor is a large one that may be chance."""
    assert not fallen((10**7, 5 * 10**6), (10**7, 48 * 10**5))
    assert fallen((10**7, 5 * 10**6), (10**7, 47 * 10**5))
    assert not fallen((20, 10), (20, 5))
    assert not fallen((1000, 500), (1000, 400))
