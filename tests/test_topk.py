"""Exact top-k of many vectors, against numpy."""

import numpy as np
import pytest
from numpy.typing import NDArray

from recsys import topk
from recsys.topk import Longest, top

Floats = NDArray[np.float32]


def normal(rng: np.random.Generator, rows: int, d: int) -> Floats:
    return rng.standard_normal((rows, d)).astype(np.float32)


def barring(lists: list[list[int]]) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    starts = np.concatenate([[0], np.cumsum([len(rows) for rows in lists])])
    return starts.astype(np.int64), np.array([row for rows in lists for row in rows], np.int32)


@pytest.mark.parametrize(
    ("vectors", "items", "d", "n"),
    [(70, 3000, 16, 20), (600, 1300, 7, 50), (5, 30, 4, 40), (3, 1024, 8, 1000), (9, 1, 3, 5)],
)
def test_it_finds_what_a_full_sort_finds(vectors: int, items: int, d: int, n: int) -> None:
    """The best allowed rows that are not out, best first, for blocks of any size; -1 where there
    are too few."""
    rng = np.random.default_rng(items)
    asked = normal(rng, vectors, d)
    factors = normal(rng, items, d) * rng.exponential(1, (items, 1)).astype(np.float32)
    allowed = rng.random(items) < 0.8
    lists = [rng.permutation(items)[: rng.integers(min(items, 60))].tolist() for _ in asked]
    rows, products = top(Longest.of(factors, allowed), asked, *barring(lists), n)
    right = asked.astype(np.float64) @ factors.T.astype(np.float64)
    right[:, ~allowed] = -np.inf
    for k, out in enumerate(lists):
        right[k, out] = -np.inf
        wanted = np.argsort(-right[k])[: min(n, int(np.isfinite(right[k]).sum()))]
        assert set(rows[k][: len(wanted)].tolist()) == set(wanted.tolist())
        np.testing.assert_allclose(products[k][: len(wanted)], right[k][wanted], atol=1e-4)
        assert (rows[k][len(wanted) :] == -1).all()


def test_equal_products_go_by_row() -> None:
    """Of items that are alike the first come first, however many there are."""
    factors = np.ones((700, 8), dtype=np.float32)
    starts, out = barring([[0, 3], []])
    rows, _ = top(Longest.of(factors), np.ones((2, 8), dtype=np.float32), starts, out, 3)
    assert [row[:1].tolist() for row in rows] == [[1], [0]]
    assert (np.diff(rows, axis=1) > 0).all()


def test_short_items_are_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once no item left is long enough to be among the best, that is all."""
    rng = np.random.default_rng(2)
    factors = normal(rng, 20 * topk.ITEMS, 8)
    factors[topk.ITEMS :] *= 0.001
    looked_at = []
    bar = topk._bar
    monkeypatch.setattr(topk, "_bar", lambda *args: looked_at.append(args[2]) or bar(*args))
    top(Longest.of(factors), normal(rng, 30, 8), *barring([[]] * 30), 20)
    assert looked_at == [0]


def test_a_vector_alone_gets_what_it_gets_among_others() -> None:
    """Rows and products do not depend on who is asked beside."""
    rng = np.random.default_rng(3)
    items, asked = Longest.of(normal(rng, 2000, 32)), normal(rng, 1100, 32)
    rows, products = top(items, asked, *barring([[]] * 1100), 25)
    for k in (0, 511, 512, 1099):
        alone = top(items, asked[k : k + 1], *barring([[]]), 25)
        np.testing.assert_array_equal(alone[0][0], rows[k])
        np.testing.assert_array_equal(alone[1][0], products[k])
