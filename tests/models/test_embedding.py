"""One behaviour suite for every embedding model, and the fold-in against implicit's own."""

import numpy as np
import pytest
from implicit.cpu.als import AlternatingLeastSquares
from scipy import sparse
from threadpoolctl import threadpool_limits

from recsys.config import EmbeddingConfig, EventsConfig
from recsys.interactions import fold
from recsys.models import embedding
from tests.synthetic import checkerboard


@pytest.fixture(scope="module")
def board() -> sparse.csr_matrix:
    return fold(checkerboard(), EventsConfig()).by_visitor


@pytest.mark.parametrize("model", list(embedding.MODELS))
def test_a_visitor_is_placed_on_their_side_of_the_board(model: str, board) -> None:
    """Folding in three items of one side ranks that side's other items first."""
    data = fold(checkerboard(), EventsConfig())
    config = EmbeddingConfig(model=model, embedding_size=8, epochs=60)
    vectors = embedding.fit(data.by_visitor, config, seed=3, threads=1)
    for side in (0, 1):
        rows = data.items.rows([f"i{side}", f"i{side + 2}", f"i{side + 4}"])
        scores = vectors.item_factors @ embedding.fold_in(
            vectors, rows, np.full(3, 10, dtype=np.float32)
        )
        top = data.items.ids(np.argsort(-scores)[:10])
        assert all(int(item[1:]) % 2 == side for item in top)


@pytest.mark.parametrize("model", list(embedding.MODELS))
def test_the_same_seed_gives_the_same_factors(model: str, board) -> None:
    """Training twice gives the same bytes; another seed gives others."""
    config = EmbeddingConfig(model=model, embedding_size=8, epochs=3)
    one, two, other = (embedding.fit(board, config, seed=s, threads=1) for s in (5, 5, 6))
    assert one.item_factors.tobytes() == two.item_factors.tobytes()
    assert one.item_factors.tobytes() != other.item_factors.tobytes()


@pytest.mark.parametrize("model", list(embedding.MODELS))
def test_every_epoch_ticks(model: str, board) -> None:
    """Progress is told once an epoch."""
    ticks: list[int] = []
    config = EmbeddingConfig(model=model, embedding_size=4, epochs=7)
    embedding.fit(board, config, 1, 1, lambda: ticks.append(1))
    assert len(ticks) == 7


def test_fold_in_equals_implicits_recalculation() -> None:
    """For ALS our n x n fold-in is implicit's own user recalculation to 1e-5."""
    rng = np.random.default_rng(0)
    matrix = sparse.random(300, 200, 0.05, "csr", np.float32, random_state=1)
    matrix.data = rng.integers(1, 6, matrix.nnz).astype(np.float32)
    config = EmbeddingConfig(model="als", embedding_size=32, epochs=15, alpha=20.0, reg=1.0)
    with threadpool_limits(1, "blas"):
        reference = AlternatingLeastSquares(
            32, regularization=1.0, alpha=20.0, iterations=15, num_threads=1, random_state=7
        )
        reference.fit(matrix, show_progress=False)
        ours = embedding.fit(matrix, config, seed=7, threads=1)
        np.testing.assert_array_equal(ours.item_factors, reference.item_factors)
        for user in range(100):
            row = matrix[user]
            theirs = reference.recalculate_user(user, row)
            mine = embedding.fold_in(ours, row.indices, row.data * np.float32(config.alpha))
            np.testing.assert_allclose(mine, theirs, atol=1e-5)


@pytest.mark.parametrize("model", list(embedding.MODELS))
def test_fold_in_of_nothing_is_zero(model: str, board) -> None:
    """A stranger's vector is zero."""
    config = EmbeddingConfig(model=model, embedding_size=4, epochs=1)
    vectors = embedding.fit(board, config, 1, 1)
    nothing = embedding.fold_in(vectors, np.zeros(0, np.int32), np.zeros(0, np.float32))
    assert len(nothing) == vectors.item_factors.shape[1]
    assert not nothing.any()


@pytest.mark.parametrize(("length_power", "degree_power"), [(0.0, 0.0), (0.5, 0.5), (0.3, 0.4)])
def test_svd_scores_are_the_projection_of_the_normalised_matrix(
    length_power: float, degree_power: float
) -> None:
    """A visitor's scores are r D^-b V Vᵀ D^b with the leading vectors V of numpy's SVD."""
    rng = np.random.default_rng(0)
    taste = rng.random((120, 4)) @ rng.random((4, 90))
    dense = rng.poisson(taste * (rng.random(taste.shape) < 0.5)).astype(np.float32)
    dense = dense[dense.sum(axis=1) > 0]
    config = EmbeddingConfig(
        model="svd",
        embedding_size=5,
        epochs=60,
        length_power=length_power,
        degree_power=degree_power,
    )
    model = embedding.fit(sparse.csr_matrix(dense), config, seed=1, threads=1)
    damped = np.log1p(dense)
    visitors, items = damped.sum(axis=1, keepdims=True), np.maximum(damped.sum(axis=0), 1e-6)
    scale = items**degree_power
    leading = np.linalg.svd(damped / (visitors**length_power * scale))[2][:5].T
    truth = damped / scale @ leading @ leading.T * scale
    for visitor in range(len(dense)):
        rows = np.flatnonzero(dense[visitor]).astype(np.int32)
        scores = model.item_factors @ embedding.fold_in(model, rows, damped[visitor, rows])
        np.testing.assert_allclose(scores, truth[visitor], atol=1e-4)


def test_epochs_are_the_models_own_unless_given() -> None:
    """0 stands for what each model needs."""
    assert EmbeddingConfig(model="als").epochs == 15
    assert EmbeddingConfig(model="svd").epochs == 4
    assert EmbeddingConfig(model="svd", epochs=2).epochs == 2


@pytest.mark.parametrize("model", list(embedding.MODELS))
def test_many_are_folded_in_as_each_alone(model: str) -> None:
    """Up to rounding; whoever has no history is nowhere."""
    rng = np.random.default_rng(6)
    matrix = sparse.random(30, 25, 0.2, "csr", np.float32, rng=rng)
    config = EmbeddingConfig(model=model, embedding_size=6, epochs=2)
    fitted = embedding.fit(matrix, config, seed=1, threads=1)
    histories = [rng.permutation(25)[:n].astype(np.int32) for n in (3, 0, 1, 20)]
    weights = [rng.exponential(9, len(rows)).astype(np.float32) for rows in histories]
    starts = np.concatenate([[0], np.cumsum([len(rows) for rows in histories])])
    projected, given = embedding.projected(fitted), map(np.concatenate, (histories, weights))
    together = embedding.fold_in_all(fitted, projected, starts, *given)
    alone = [
        embedding.fold_in(fitted, rows, some) for rows, some in zip(histories, weights, strict=True)
    ]
    np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-5)
