"""Metrics against hand-computed values and naive definitions."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys import metrics
from recsys.metrics import METRICS, Floats

# Three lists of four: hits at ranks 1 and 3 of three wanted; at rank 2 of one wanted; none.
HITS = np.array([[1, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 0]], dtype=bool)
WANTED = np.array([3, 1, 2])

BY_HAND = [
    ("hr", 4, [1, 1, 0]),
    ("hr", 1, [1, 0, 0]),
    ("precision", 4, [0.5, 0.25, 0]),
    ("precision", 2, [0.5, 0.5, 0]),
    ("recall", 4, [2 / 3, 1, 0]),
    ("recall", 2, [1 / 3, 1, 0]),
    ("mrr", 4, [1, 0.5, 0]),
    ("mrr", 1, [1, 0, 0]),
    # Ideal of three wanted: 1 + 1/log2(3) + 1/2.
    ("ndcg", 4, [1.5 / (1.5 + 1 / math.log2(3)), 1 / math.log2(3), 0]),
    ("ndcg", 2, [1 / (1 + 1 / math.log2(3)), 1 / math.log2(3), 0]),
]


@pytest.mark.parametrize(("name", "k", "expected"), BY_HAND)
def test_by_hand(name: str, k: int, expected: list[float]) -> None:
    """Each metric of three small lists is what paper and pencil give."""
    np.testing.assert_allclose(METRICS[name](HITS, WANTED, k), expected, atol=1e-12)


def naive(name: str, ranked: list[int], wanted: set[int], k: int) -> float:
    """The textbook definitions, on lists and sets."""
    ranks = [r for r, item in enumerate(ranked[:k], 1) if item in wanted]
    gain = sum(1 / math.log2(r + 1) for r in ranks)
    ideal = sum(1 / math.log2(r + 1) for r in range(1, min(len(wanted), k) + 1))
    return {
        "hr": float(bool(ranks)),
        "precision": len(ranks) / k,
        "recall": len(ranks) / len(wanted),
        "mrr": 1 / ranks[0] if ranks else 0.0,
        "ndcg": gain / ideal,
    }[name]


@given(
    ranked=st.lists(st.integers(0, 30), unique=True, max_size=12),
    wanted=st.sets(st.integers(0, 30), min_size=1, max_size=15),
    k=st.integers(1, 12),
)
def test_naive_definitions(ranked: list[int], wanted: set[int], k: int) -> None:
    """Every metric equals its textbook definition for any list, wanted set and k."""
    hits = np.array([[item in wanted for item in ranked] + [False] * (12 - len(ranked))])
    for name, metric in METRICS.items():
        value = metric(hits, np.array([len(wanted)]), k)[0]
        assert value == pytest.approx(naive(name, ranked, wanted, k)), name
        assert 0.0 <= value <= 1.0


def test_short_lists() -> None:
    """A matrix narrower than k counts the missing ranks as misses."""
    for name in METRICS:
        narrow = METRICS[name](HITS, WANTED, 10)
        wide = METRICS[name](np.pad(HITS, ((0, 0), (0, 6))), WANTED, 10)
        np.testing.assert_allclose(narrow, wide, err_msg=name)


def test_coverage() -> None:
    """Coverage is the share of the catalogue that was shown at all."""
    assert metrics.coverage(np.array([True, False, True, False])) == 0.5
    assert metrics.coverage(np.zeros(0, dtype=bool)) == 0.0


def test_mean_popularity() -> None:
    """Popularity averages each item's share of training; padding counts for nothing."""
    counts = np.array([6, 3, 1], dtype=np.float32)
    lists = np.array([[0, 1], [2, -1], [-1, -1]], dtype=np.int32)
    np.testing.assert_allclose(metrics.mean_popularity(lists, counts), [0.45, 0.1, 0.0])


def test_novelty() -> None:
    """An item with half, a quarter, an eighth of all interest has 1, 2, 3 bits."""
    counts = np.array([4, 2, 1, 1], dtype=np.float32)
    lists = np.array([[0, 1], [2, 3], [1, -1], [-1, -1]], dtype=np.int32)
    np.testing.assert_allclose(metrics.novelty(lists, counts), [1.5, 3.0, 2.0, 0.0])


def test_diversity() -> None:
    """Equal items have none, opposite ones 2, right angles 1; single items and gaps count as 0."""
    vectors = np.array([[1, 0], [1, 0], [0, 1], [-1, 0], [0, 0]], dtype=np.float32)
    lists = np.array([[0, 1], [0, 2], [0, 3], [0, 4], [0, -1]], dtype=np.int32)
    np.testing.assert_allclose(metrics.diversity(lists, vectors), [0, 1, 2, 1, 0])


@given(st.integers(2, 6), st.integers(0, 3), st.integers(0, 2**31))
def test_diversity_of_all_pairs(held: int, gaps: int, seed: int) -> None:
    """Diversity equals the plain mean over all pairs of the list."""
    vectors = np.random.default_rng(seed).normal(size=(held, 5)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    pairs = [1 - float(vectors[i] @ vectors[j]) for i in range(held) for j in range(i)]
    lists = np.array([[*range(held), *[-1] * gaps]], dtype=np.int32)
    assert metrics.diversity(lists, vectors)[0] == pytest.approx(np.mean(pairs), abs=1e-5)


def test_popularity_buckets() -> None:
    """Each bucket begins where a third, and two thirds, of all interest are spent."""
    counts = np.array([4, 3, 2, 1, 1, 1], dtype=np.float32)  # before them: 0 4 7 9 10 11 of 12
    assert metrics.popularity_buckets(counts).tolist() == [0, 1, 1, 2, 2, 2]
    assert metrics.popularity_buckets(counts[:1]).tolist() == [0]


def test_miscalibration() -> None:
    """Showing what is chosen costs nothing; a bucket never shown costs as Steck's formula says."""
    chosen = np.array([0.5, 0.5, 0.0])
    assert metrics.miscalibration(chosen, chosen) == pytest.approx(0.0)
    lists = np.array([1.0, 0.0, 0.0])
    by_hand = 0.5 * math.log(0.5 / 0.995) + 0.5 * math.log(0.5 / 0.005)
    assert metrics.miscalibration(chosen, lists) == pytest.approx(by_hand)


def test_negated_estimate() -> None:
    """Minus an estimate turns its interval around."""
    turned = metrics.Estimate(2.0, 1.0, 4.0).negated()
    assert turned == metrics.Estimate(-2.0, -4.0, -1.0)
    assert metrics.UNDEFINED.negated() == metrics.UNDEFINED


def paired(baseline: list[float], better: list[float]) -> tuple[Floats, Floats, Floats]:
    """Two columns, each sample a cluster of its own, and their resampled means."""
    values = np.column_stack([baseline, better]).astype(float)
    means = metrics.bootstrap_means(values, np.arange(len(values)), seed=1, draws=500)
    return values[:, 0], values[:, 1], means


def test_bootstrap_is_reproducible() -> None:
    """The same seed gives the same interval, another seed another."""
    values = np.random.default_rng(0).random((50, 3))
    clusters = np.arange(50) // 2
    once, twice, other = (
        metrics.bootstrap_means(values, clusters, seed=s, draws=20) for s in (1, 1, 2)
    )
    np.testing.assert_array_equal(once, twice)
    assert (once != other).any()


def test_bootstrap_of_a_mean() -> None:
    """The resampled means spread as theory says: sigma / sqrt(n) without clusters."""
    values = np.random.default_rng(0).normal(size=(2000, 1))
    means = metrics.bootstrap_means(values, np.arange(2000), seed=1, draws=1000)
    assert means.mean() == pytest.approx(values.mean(), abs=0.003)
    assert means.std() == pytest.approx(values.std() / math.sqrt(2000), rel=0.1)


def test_bootstrap_clusters_widen() -> None:
    """Ten copies of each sample in one cluster tell no more than one copy."""
    values = np.random.default_rng(0).normal(size=(200, 1))
    single = metrics.bootstrap_means(values, np.arange(200), seed=1)
    copied = np.repeat(values, 10, axis=0)
    clustered = metrics.bootstrap_means(copied, np.repeat(np.arange(200), 10), seed=1)
    np.testing.assert_allclose(clustered, single)


def test_identical_systems() -> None:
    """Of two equal systems difference and lift are exactly 0, interval included."""
    scores = [0.0, 1.0, 0.5, 0.25] * 5
    baseline, better, draws = paired(scores, scores)
    for estimate in (
        metrics.difference(baseline, better, draws),
        metrics.relative_lift(baseline, better, draws),
    ):
        assert estimate.to_dict() == {"value": 0.0, "low": 0.0, "high": 0.0}


def test_lift_of_equal_noise() -> None:
    """Two systems that differ by chance only have an interval that holds 0."""
    rng = np.random.default_rng(3)
    columns = rng.random((2, 1000)) < 0.3
    baseline, better, draws = paired(columns[0].tolist(), columns[1].tolist())
    lift = metrics.relative_lift(baseline, better, draws)
    assert lift.low is not None
    assert lift.high is not None
    assert lift.low < 0 < lift.high


def test_lift_of_a_better_system() -> None:
    """A system half as good again everywhere has a lift of 0.5 and an interval around it."""
    baseline, better, draws = paired([0.2, 0.4] * 50, [0.3, 0.6] * 50)
    lift = metrics.relative_lift(baseline, better, draws)
    assert lift.value == pytest.approx(0.5)
    assert lift.low == pytest.approx(0.5)
    gain = metrics.difference(baseline, better, draws)
    assert gain.value == pytest.approx(0.15)
    assert gain.low is not None
    assert gain.high is not None
    assert 0 < gain.low < 0.15 < gain.high


def test_lift_without_a_baseline() -> None:
    """A baseline that never hits has no relative lift; one that seldom hits has no interval."""
    baseline, better, draws = paired([0.0] * 10, [1.0] * 10)
    assert metrics.relative_lift(baseline, better, draws) == metrics.UNDEFINED
    baseline, better, draws = paired([1.0] + [0.0] * 9, [1.0] * 10)
    lift = metrics.relative_lift(baseline, better, draws)
    assert lift == metrics.Estimate(pytest.approx(9.0), None, None)  # type: ignore[arg-type]
