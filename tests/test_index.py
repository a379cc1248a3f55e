"""Every kind of index against brute-force numpy."""

import itertools
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest

from recsys import index as faiss_index
from recsys.config import IndexConfig, IndexKind

KINDS = ["exact", "ivf", "hnsw", "ivfpq", "sq8"]


@pytest.fixture(scope="module")
def factors() -> np.ndarray:
    rng = np.random.default_rng(0)
    # Clustered, like real item factors; uniform noise has no neighbours to find.
    centres = rng.normal(size=(40, 32))
    return (centres[rng.integers(0, 40, 3000)] + 0.4 * rng.normal(size=(3000, 32))).astype("f4")


IndexOf = Callable[[str], faiss_index.Index]


def config_of(kind: str) -> IndexConfig:
    return IndexConfig(kind=kind, recall_queries=200, recall_at=20, ivf_lists=16, ivf_probes=8)


@pytest.fixture(scope="module")
def index_of(factors: np.ndarray) -> IndexOf:
    """The index of a kind, built once."""

    @lru_cache
    def built(kind: str) -> faiss_index.Index:
        return faiss_index.build(factors, config_of(kind), seed=1)

    return built


def test_exact_equals_numpy(factors: np.ndarray) -> None:
    """The exact index gives numpy's rows and scores for 1,000 queries."""
    index = faiss_index.build(factors, IndexConfig(), seed=1)
    queries = np.random.default_rng(1).normal(size=(1000, 32)).astype("f4")
    for query in queries:
        rows, scores = index.search(query, 20)
        truth = factors @ query
        np.testing.assert_allclose(scores, np.sort(truth)[::-1][:20], rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(truth[rows], scores, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_recall_is_measured(factors: np.ndarray, kind: str, index_of: IndexOf) -> None:
    """The stored recall is the share of the true neighbours that the index finds."""
    index = index_of(kind)
    recall = faiss_index.measured_recall(index, config_of(kind), seed=2)
    assert 0.5 < recall <= 1.0
    query = factors[7]
    true = set(np.argsort(-(factors @ query))[:20].tolist())
    found = set(index.search(query, 20)[0].tolist())
    assert len(true & found) >= 8
    if kind == "exact":
        assert recall == 1.0
        assert true == found


@pytest.mark.parametrize("kind", KINDS)
def test_scores_are_inner_products(factors: np.ndarray, kind: str, index_of: IndexOf) -> None:
    """Whatever the index stores, the scores are exact and descending."""
    rows, scores = index_of(kind).search(factors[3], 50)
    np.testing.assert_allclose(scores, factors[rows] @ factors[3], rtol=1e-5, atol=1e-4)
    assert (np.diff(scores) <= 0).all()
    assert len(set(rows.tolist())) == len(rows)


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_index_answers_the_same(
    factors: np.ndarray, kind: str, index_of: IndexOf, tmp_path: Path
) -> None:
    """Through a file and a memory map nothing changes."""
    index = index_of(kind)
    faiss_index.save(index, tmp_path / "index.faiss")
    again = faiss_index.load(factors, tmp_path / "index.faiss")
    for query in factors[:20]:
        for one, other in zip(index.search(query, 30), again.search(query, 30), strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("kind", KINDS[1:])
def test_building_twice_gives_the_same_file(
    factors: np.ndarray, kind: str, index_of: IndexOf, tmp_path: Path
) -> None:
    """The same factors and seed give the same bytes."""
    again = faiss_index.build(factors, config_of(kind), seed=1)
    faiss_index.save(index_of(kind), tmp_path / "one")
    faiss_index.save(again, tmp_path / "other")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()


def test_asking_for_more_than_there_is(factors: np.ndarray) -> None:
    """k beyond the catalogue gives the whole catalogue."""
    index = faiss_index.build(factors[:5], IndexConfig(), seed=1)
    assert sorted(index.search(factors[0], 20)[0].tolist()) == [0, 1, 2, 3, 4]


def test_more_lists_than_items(factors: np.ndarray) -> None:
    """As a tail of a log may have: one of each, and all is found."""
    config = IndexConfig(kind="ivf", ivf_lists=64, recall_queries=10)
    index = faiss_index.build(factors[:30], config, seed=1)
    assert faiss_index.description(index).endswith("of 30 lists")
    assert len(index.search(factors[3], 10)[0]) == 10


@pytest.mark.parametrize("kind", KINDS)
def test_a_long_list_is_full(factors: np.ndarray, kind: IndexKind) -> None:
    """Also where the lists that are looked at hold fewer items."""
    config = IndexConfig(kind=kind, ivf_lists=64, ivf_probes=2, hnsw_search=64)
    rows, scores = faiss_index.build(factors, config, seed=1).search(factors[3], 1000)
    assert len(np.unique(rows)) == len(scores) == 1000


@pytest.mark.parametrize("kind", KINDS)
def test_equal_scores_are_in_order_of_rows(kind: str) -> None:
    """Of items with the same factors the first comes first, whatever FAISS makes of them."""
    rng = np.random.default_rng(4)
    factors = np.repeat(rng.normal(size=(60, 16)), 5, axis=0).astype("f4")
    factors = factors[rng.permutation(len(factors))]
    index = faiss_index.build(factors, IndexConfig(kind=kind, ivf_lists=4, ivf_probes=4), seed=1)
    for query in factors[:20]:
        rows, scores = index.search(query, 30)
        for one, other in itertools.pairwise(range(len(rows))):
            assert (-scores[one], rows[one]) < (-scores[other], rows[other])


def truth(factors: np.ndarray, query: np.ndarray, allowed: np.ndarray, k: int) -> list[int]:
    rows = np.flatnonzero(allowed)
    return rows[np.lexsort((rows, -(factors[rows] @ query)))][:k].tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_few_allowed_items_are_searched_exactly(
    factors: np.ndarray, kind: str, index_of: IndexOf
) -> None:
    """Of a handful of allowed items the nearest come, whatever the index would have found."""
    index = index_of(kind)
    rng = np.random.default_rng(2)
    for query in factors[:20]:
        allowed = rng.random(len(factors)) < 0.01
        rows, scores = index.search(query, 10, allowed)
        assert rows.tolist() == truth(factors, query, allowed, 10)
        np.testing.assert_allclose(scores, factors[rows] @ query, rtol=1e-5, atol=1e-4)
        nothing = index.search(query, 10, np.zeros(len(factors), dtype=np.bool_))
        assert [len(part) for part in nothing] == [0, 0]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.02, 0.5])
def test_many_allowed_items_are_searched_by_the_index(
    factors: np.ndarray,
    kind: str,
    share: float,
    index_of: IndexOf,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Only allowed items come, in order, most of them the nearest, all where so many are wanted."""
    monkeypatch.setattr(faiss_index, "FEW", 10)
    index = index_of(kind)
    rng, right = np.random.default_rng(2), 0
    for query in factors[:20]:
        allowed = rng.random(len(factors)) < share
        rows, scores = index.search(query, 20, allowed)
        assert len(rows) == 20
        assert allowed[rows].all()
        assert (np.diff(scores) <= 0).all()
        right += len(set(rows.tolist()) & set(truth(factors, query, allowed, 20)))
        everything, _ = index.search(query, len(factors), allowed)
        assert sorted(everything.tolist()) == np.flatnonzero(allowed).tolist()
    assert right >= 0.8 * 400


@pytest.mark.parametrize("allowed_share", [0.1, 1.0])
def test_allowed_items_of_equal_scores_are_in_order_of_rows(allowed_share: float) -> None:
    """Also where only some of the equal ones fit."""
    factors = np.ones((600, 8), dtype="f4")
    index = faiss_index.build(factors, IndexConfig(), seed=1)
    allowed = np.random.default_rng(0).random(600) < allowed_share
    rows, _ = index.search(factors[0], 7, allowed)
    assert rows.tolist() == np.flatnonzero(allowed)[:7].tolist()
