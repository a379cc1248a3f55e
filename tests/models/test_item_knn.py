"""Item-kNN against its formula."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from recsys.config import ItemKnnConfig
from recsys.models import item_knn


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 9), st.sampled_from([0.0, 0.3, 0.5]))
def test_similarities_follow_the_formula(seed: int, items: int, power: float) -> None:
    """Similarities are co(i, j) / (degree(i) degree(j)) ** power; the largest are kept.

    A session of n items adds n ** -length_power to co(i, j), less the older it is.
    """
    rng = np.random.default_rng(seed)
    dense = (rng.random((12, items)) < 0.4).astype(np.float32)
    model = item_knn.fit(
        sparse.csr_matrix(dense),
        ItemKnnConfig(neighbours=3, degree_power=power, length_power=0.7, age_decay=2),
        threads=1,
    )
    degree = np.maximum(dense.sum(axis=0), 1)
    lengths = np.maximum(dense.sum(axis=1, keepdims=True), 1)
    age = np.exp(-2 * (11 - np.arange(12)) / 11)[:, None]
    truth = dense.T @ (dense / lengths**0.7 * age) / np.outer(degree, degree) ** power
    np.fill_diagonal(truth, 0)
    for item in range(items):
        of = slice(*model.starts[item : item + 2].tolist())
        kept, near = model.similarities[of], model.neighbours[of]
        expected = np.sort(truth[item])[::-1][:3]
        np.testing.assert_allclose(kept, expected[expected > 0], rtol=1e-5)
        np.testing.assert_allclose(truth[item, near], kept, rtol=1e-5)


def test_without_order_all_sessions_count_alike() -> None:
    """Sessions that are not in order of time have no age."""
    board = sparse.csr_matrix(np.array([[1, 1, 0], [1, 0, 1]], dtype=np.float32))
    aged, ageless = (item_knn.fit(board, ItemKnnConfig(), 1, order) for order in (True, False))
    assert aged.starts.tolist() == ageless.starts.tolist() == [0, 2, 3, 4]
    assert aged.similarities[0] > aged.similarities[1]
    assert aged.neighbours[:2].tolist() == [2, 1]
    assert ageless.similarities[0] == ageless.similarities[1]


def test_scores_are_weighted_means() -> None:
    """Two session items vote by their weights; nothing voted for scores zero."""
    model = item_knn.ItemKnn(
        np.array([0, 1, 3, 5, 6]),
        np.array([2, 2, 3, 0, 1, 1], dtype=np.int32),
        np.array([0.5, 1.0, 0.4, 0.5, 1.0, 0.4], dtype=np.float32),
    )
    voters, weights = np.array([0, 1], np.int32), np.array([3.0, 1.0], np.float32)
    rows, scores = item_knn.propose(model, voters, weights, 4)
    assert rows.tolist() == [2, 3]
    np.testing.assert_allclose(scores, [0.75 * 0.5 + 0.25 * 1.0, 0.25 * 0.4], rtol=1e-6)
    nothing = np.zeros(0, np.float32)
    assert not len(item_knn.propose(model, nothing.astype(np.int32), nothing, 4)[0])
