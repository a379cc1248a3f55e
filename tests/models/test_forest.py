"""The compiled forest against LightGBM itself."""

import numpy as np

from recsys.config import RankerConfig
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


def test_scores_equal_lightgbms_to_1e_9() -> None:
    """On 2,000 fresh rows and on the thresholds themselves nothing differs."""
    table, labels, groups = data(1)
    names = [f"f{k}" for k in range(6)]
    booster = forest._booster(table, labels, groups, names, CONFIG, 1, 1, lambda: None)
    compiled = forest.compiled(booster)
    rng = np.random.default_rng(2)
    fresh = rng.normal(size=(2000, 6)).astype(np.float32)
    splits = compiled.threshold[compiled.feature >= 0].astype(np.float32)
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
