"""The compiled forest against LightGBM itself."""

from dataclasses import replace

import numpy as np
import pytest

from recsys.config import ConfigError, RankerConfig
from recsys.models import forest

CONFIG = RankerConfig(trees=30, leaves=15, min_leaf=5)


def data(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    groups = rng.integers(2, 30, 200)
    table = rng.normal(size=(groups.sum(), 6)).astype(np.float32)
    table[:, 1] = np.round(table[:, 1])  # many equal values, so that thresholds meet values
    labels = np.zeros(len(table), dtype=np.int8)
    start = 0
    for size in groups:
        chosen = table[start : start + size, 0] + 0.3 * table[start : start + size, 1]
        labels[start + chosen.argmax()] = 1
        start += size
    return table, labels, groups


@pytest.mark.parametrize("leaves", [2, 15, 32, 64])
def test_scores_equal_lightgbms_to_1e_9(leaves: int) -> None:
    """On 2,000 fresh rows and on the thresholds themselves nothing differs, be a tree's leaves few
    or as many as may be."""
    table, labels, groups = data(1)
    names = [f"f{k}" for k in range(6)]
    config = replace(CONFIG, leaves=leaves)
    booster = forest._booster(table, labels, groups, names, config, 1, 1, lambda: None)
    compiled = forest.compiled(booster)
    assert compiled.leaves.shape == (CONFIG.trees, leaves)
    rng = np.random.default_rng(2)
    fresh = rng.normal(size=(2000, 6)).astype(np.float32)
    splits = compiled.threshold
    fresh[:500] = rng.choice(splits, (500, 6))
    theirs = booster.predict(fresh.astype(np.float64))
    np.testing.assert_allclose(
        forest.scores(compiled, np.ascontiguousarray(fresh.T)), theirs, rtol=0, atol=1e-9
    )


def test_it_learns_what_ranks() -> None:
    """The feature that decides gets the gain, and the right row comes first."""
    names = [f"f{k}" for k in range(6)]
    ticks: list[int] = []
    model, gain = forest.fit(*data(1), names, CONFIG, 1, 1, lambda: ticks.append(1))
    assert len(ticks) == CONFIG.trees
    assert max(gain, key=lambda name: gain[name]) == "f0"
    table, labels, groups = data(3)
    scores = forest.scores(model, np.ascontiguousarray(table.T))
    start, right = 0, 0
    for size in groups:
        right += int(labels[start + scores[start : start + size].argmax()])
        start += size
    assert right / len(groups) > 0.6  # by chance it would be 0.06


def test_it_is_reproducible() -> None:
    """The same data and seed give the same trees, whatever the number of threads."""
    names = [f"f{k}" for k in range(6)]
    one, two = (forest.fit(*data(1), names, CONFIG, 1, threads)[0] for threads in (1, 2))
    assert one.threshold.tobytes() == two.threshold.tobytes()
    assert one.feature.tobytes() == two.feature.tobytes()


def test_trees_of_a_share_of_the_features_and_requests() -> None:
    """Without the rest a tree is another one; the same seed gives the same again, as exact."""
    names = [f"f{k}" for k in range(6)]
    table, labels, groups = data(1)
    whole = forest.fit(*data(1), names, CONFIG, 1, 1)[0]
    for shares in ({"feature_fraction": 0.5}, {"bagging_fraction": 0.5}):
        config = replace(CONFIG, **shares)
        booster = forest._booster(table, labels, groups, names, config, 1, 1, lambda: None)
        part = forest.compiled(booster)
        again = forest.fit(*data(1), names, config, 1, 2)[0]
        assert part.threshold.tobytes() == again.threshold.tobytes() != whole.threshold.tobytes()
        scores = forest.scores(part, np.ascontiguousarray(table.T))
        np.testing.assert_allclose(scores, booster.predict(table), rtol=0, atol=1e-9)


@pytest.mark.parametrize("share", [0.001, 1.5])
@pytest.mark.parametrize("name", ["feature_fraction", "bagging_fraction"])
def test_shares_of_next_to_nothing_or_more_than_all_are_refused(name: str, share: float) -> None:
    """The text names the setting and its range."""
    wanted = rf"ranker\.{name}: from 0\.05 to 1, got {share}"
    with pytest.raises(ConfigError, match=wanted):
        RankerConfig(**{name: share})


def test_more_leaves_than_a_number_has_bits_are_refused() -> None:
    """The text names the setting and its highest value."""
    with pytest.raises(ConfigError, match=r"ranker\.leaves: must be at most 64, got 65"):
        RankerConfig(leaves=65)


def test_trees_without_a_split_add_their_only_leaf() -> None:
    """Where no feature tells rows apart, all of them get what LightGBM gives them."""
    table, labels, groups = data(1)
    table[:] = 0
    names = [f"f{k}" for k in range(6)]
    booster = forest._booster(table, labels, groups, names, CONFIG, 1, 1, lambda: None)
    theirs = booster.predict(table[:5].astype(np.float64))
    scores = forest.scores(forest.compiled(booster), np.ascontiguousarray(table[:5].T))
    np.testing.assert_allclose(scores, theirs, rtol=0, atol=1e-9)
