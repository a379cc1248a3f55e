"""SVD: the leading item vectors of the degree-normalised matrix.

With R~ = D_u^-a R D_i^-b, a visitor's scores are r~ V Vᵀ D_i^b: the ideal low-pass filter of the
graph of visitors and items. Sources: Cremonesi, Koren, Turrin, "Performance of recommender
algorithms on top-N recommendation tasks", RecSys 2010 (PureSVD, a = b = 0); Shen et al., "How
powerful is graph convolution for recommendation?", CIKM 2021 (a = b = 1/2). In between is best: a
visitor of many items, and an item of many visitors, count for more than one of few, but not for as
much more as they have.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from recsys.config import EmbeddingConfig

SPARE = 10  # columns more than asked for, which make the last ones asked for exact sooner
# With more dimensions, relative to the smaller side of the matrix, a visitor's projection comes
# down to what they already have.
SHARE = 0.1
# With more per item of a mean visitor they tell apart what no visitor shows: sessions of four items
# do with 160, people of thirty with 1,200.
PER_ITEM = 40
RESUMED = 1  # passes from a start that is nearly right

Floats = NDArray[np.float32]


def fit(
    matrix: sparse.csr_matrix,
    config: EmbeddingConfig,
    seed: int,
    threads: int,  # noqa: ARG001  # BLAS decides: the products are its own
    tick: Callable[[], None],
    start: Floats | None = None,
) -> Floats:
    """Item factors D_i^b V, float32 [items, d]; d is embedding_size, less for a small or thin
    matrix.

    Subspace iteration from a seeded start, ``epochs`` times over the matrix: any shape, progress
    and an interrupt at every pass, where ARPACK has none of them. start: factors of most of the
    items in this scale, zero for the others; a single pass then takes in what is new.
    """
    damped = _damped(matrix)
    visitors = np.maximum(np.asarray(damped.sum(axis=1)).ravel(), 1e-6)
    root = _degrees(damped) ** np.float32(config.degree_power)
    normalised = sparse.diags_array(visitors.astype(np.float32) ** -config.length_power) @ damped
    normalised = sparse.csr_matrix(normalised @ sparse.diags_array(1 / root), dtype=np.float32)
    transposed = sparse.csr_matrix(normalised.T)
    d = min(config.embedding_size, _most(matrix))
    width = min(d + SPARE, *matrix.shape)
    rng = np.random.default_rng(seed)
    basis = rng.standard_normal((matrix.shape[1], width)).astype(np.float32)
    passes = config.epochs
    if start is not None:
        known = min(start.shape[1], width)
        basis[:, :known] = start[:, :known] / root[:, None]
        passes = RESUMED
    for _ in range(passes):
        basis, _ = np.linalg.qr(transposed @ (normalised @ basis))
        tick()
    seen = normalised @ basis
    _, turns = np.linalg.eigh(seen.T.astype(np.float64) @ seen)  # ascending
    factors: Floats = (basis @ turns[:, ::-1][:, :d].astype(np.float32)) * root[:, None]
    return factors


def _most(matrix: sparse.csr_matrix) -> int:
    """The most dimensions that a matrix has a use for."""
    mean_items = matrix.nnz / matrix.shape[0]
    return max(1, int(min(SHARE * min(matrix.shape), PER_ITEM * mean_items)))


def shares(matrix: sparse.csr_matrix, config: EmbeddingConfig) -> Floats:
    """What each item adds of its own factors to a visitor: D_i^-2b, as D_i^-b V is D_i^-2b of the
    factors; float32 [items]."""
    inverse: Floats = _degrees(_damped(matrix)) ** np.float32(-2 * config.degree_power)
    return inverse


def _damped(matrix: sparse.csr_matrix) -> sparse.csr_matrix:
    """Repeated interest by its logarithm, as the fold-in takes a history."""
    damped = sparse.csr_matrix(matrix, dtype=np.float32, copy=True)
    damped.data = np.log1p(damped.data)
    return damped


def _degrees(damped: sparse.csr_matrix) -> Floats:
    return np.maximum(np.asarray(damped.sum(axis=0)).ravel(), 1e-6).astype(np.float32)
