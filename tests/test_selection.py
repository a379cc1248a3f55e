"""From ranked candidates to a list."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys import selection


@settings(deadline=None)  # the first call compiles
@given(
    scores=st.lists(st.sampled_from([-1.0, 0.0, 0.5, 2.0, 3.0]), max_size=40),
    out=st.sets(st.integers(0, 60)),
    n=st.integers(1, 50),
    kind=st.sampled_from([np.float32, np.float64]),
)
def test_the_best_are_those_of_a_stable_sort(
    scores: list[float], out: set[int], n: int, kind: type[np.floating]
) -> None:
    """Whatever is out, in descending order, ties in the order of their rows."""
    rows = np.arange(0, 2 * len(scores), 2, dtype=np.int32)
    barred = np.array(sorted(out), dtype=np.int32)
    values = np.array(scores, dtype=kind)
    allowed = np.flatnonzero(~np.isin(rows, barred))
    expected = allowed[np.argsort(-values[allowed], kind="stable")[:n]]
    assert selection.best(rows, values, barred, n).tolist() == expected.tolist()


def by_hand(scores: np.ndarray, vectors: np.ndarray, diversity: float, n: int) -> list[int]:
    """Maximal marginal relevance as the paper writes it, one place after the other."""
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = np.maximum(unit @ unit.T, 0)
    relevance = (scores - scores.min()) / (scores.max() - scores.min())
    chosen = [0]
    while len(chosen) < min(n, len(scores)):
        left = [k for k in range(len(scores)) if k not in chosen]
        values = [
            (1 - diversity) * relevance[k] - diversity * cosines[k, chosen].max() for k in left
        ]
        chosen.append(left[int(np.argmax(values))])
    return chosen


def candidates(seed: int, count: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return -np.sort(-rng.normal(size=count)), rng.normal(size=(count, size)).astype(np.float32)


@settings(deadline=None)  # the first call compiles
@given(
    seed=st.integers(0, 10_000),
    count=st.integers(2, 60),
    n=st.integers(1, 30),
    diversity=st.sampled_from([0.05, 0.3, 0.5, 0.9, 1.0]),
)
def test_a_diverse_list_is_that_of_the_paper(
    seed: int, count: int, n: int, diversity: float
) -> None:
    """The compiled choice is the one made by hand."""
    scores, vectors = candidates(seed, count, 24)
    chosen = selection.diverse(scores, vectors, diversity, n)
    assert chosen.tolist() == by_hand(scores, vectors.astype(np.float64), diversity, n)


def test_no_diversity_is_the_order_of_the_scores() -> None:
    """With 0 only relevance counts; with 1 the best still comes first."""
    scores, vectors = candidates(3, 50, 8)
    assert selection.diverse(scores, vectors, 0.0, 20).tolist() == list(range(20))
    assert selection.diverse(scores, vectors, 1.0, 20)[0] == 0


def test_more_diversity_makes_lists_less_alike() -> None:
    """Over a sample of lists the mean cosine within a list falls with every step."""
    alike = []
    for diversity in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0):
        means = []
        for seed in range(200):
            scores, vectors = candidates(seed, 100, 16)
            unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
            chosen = unit[selection.diverse(scores, vectors, diversity, 20)]
            means.append(np.mean((chosen @ chosen.T)[np.triu_indices(20, 1)]))
        alike.append(float(np.mean(means)))
    assert alike == sorted(alike, reverse=True)
    assert alike[-1] < alike[0] - 0.02


def test_twins_do_not_stand_together() -> None:
    """The second of two equal items waits until something else has been shown."""
    scores = np.array([3.0, 2.9, 2.0, 1.0])
    vectors = np.array([[1, 0], [1, 0], [0, 1], [-1, 0]], dtype=np.float32)
    assert selection.diverse(scores, vectors, 0.5, 4).tolist() == [0, 2, 3, 1]


@pytest.mark.parametrize("count", [0, 1, 3])
def test_few_and_equal_candidates_are_all_taken(count: int) -> None:
    """No candidates, equal scores and items without a vector are no error."""
    scores, vectors = np.ones(count), np.zeros((count, 4), dtype=np.float32)
    assert selection.diverse(scores, vectors, 0.7, 20).tolist() == list(range(count))


def test_a_window_holds_the_list_and_is_bounded() -> None:
    """Five candidates a place, 500 in all, and never fewer than the list is long."""
    assert [selection.window(n) for n in (1, 20, 100, 300, 1000)] == [5, 100, 500, 500, 1000]


@given(
    best=st.lists(st.integers(0, 30), unique=True, max_size=12),
    wanted=st.lists(st.integers(0, 30), unique=True, max_size=12),
    share=st.integers(0, 8),
    more=st.integers(0, 5),
)
def test_a_share_of_a_list_is_for_some(
    best: list[int], wanted: list[int], share: int, more: int
) -> None:
    """As many as are asked for, where there are; what had to be added ends the list, the last of
    the others went, and the rest stands as it did."""
    n = len(best) + more
    share = min(share, n)
    found = selection.with_share(np.array(best, int), np.array(wanted, int), share, n).tolist()
    there = [place for place in best if place in wanted]
    assert len(found) == len({*found}) <= n
    assert len([p for p in found if p in wanted]) == max(len(there), min(share, len(wanted)))
    kept = [place for place in found if place in best]
    added = found[len(kept) :]
    assert added == [place for place in wanted if place not in best][: len(added)]
    assert len(kept) == len(best) or len(found) == n
    others = [place for place in best if place not in wanted]
    assert [p for p in kept if p not in wanted] == others[: len(kept) - len(there)]
    assert [p for p in kept if p in wanted] == there
