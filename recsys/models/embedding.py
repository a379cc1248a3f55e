"""Embeddings of items and the fold-in that places a visitor among them."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy import sparse

from recsys.config import EmbeddingConfig
from recsys.models import als, bpr, svd

Fit = Callable[
    [sparse.csr_matrix, EmbeddingConfig, int, int, Callable[[], None], NDArray[np.float32] | None],
    NDArray[np.float32],
]

# Every embedding model is one function and one line here.
MODELS: dict[str, Fit] = {"als": als.fit, "bpr": bpr.fit, "svd": svd.fit}

NONE = np.zeros(0, dtype=np.float32)


@dataclass(frozen=True)
class Embedding:
    """item_factors: float32 [items, d].

    projector: float32 [d, d] = (Yᵀ Y + reg I)⁻¹, empty for svd. shares: float32 [items], what an
    item adds of its factors to a visitor of an svd; empty for the other models.
    """

    item_factors: NDArray[np.float32]
    projector: NDArray[np.float32]
    shares: NDArray[np.float32]


def fit(
    matrix: sparse.csr_matrix,
    config: EmbeddingConfig,
    seed: int,
    threads: int,
    tick: Callable[[], None] = lambda: None,
    start: NDArray[np.float32] | None = None,
) -> Embedding:
    """Train the configured model on a visitor x item matrix; ``tick`` is called once an epoch.

    start: float32 [items, any], item factors to begin from, zero where there are none. BPR begins
    anew all the same.
    """
    factors = MODELS[config.model](matrix, config, seed, threads, tick, start)
    factors = np.ascontiguousarray(factors, dtype=np.float32)
    if not np.isfinite(factors).all():
        raise FloatingPointError(
            f"{config.model} diverged: raise [embedding] reg (now {config.reg}) "
            f"or lower alpha (now {config.alpha})"
        )
    if config.model == "svd":
        return Embedding(factors, np.zeros((0, 0), dtype=np.float32), svd.shares(matrix, config))
    wide = factors.astype(np.float64)
    gram = wide.T @ wide + config.reg * np.eye(factors.shape[1])
    return Embedding(factors, np.linalg.inv(gram).astype(np.float32), NONE)


def fold_in(
    embedding: Embedding, rows: NDArray[np.int32], confidence: NDArray[np.float32]
) -> NDArray[np.float32]:
    """The visitor vector, as the embedding was trained.

    rows: int32 [n], distinct item rows. confidence: float32 [n], > 0. Returns float32 [d].
    svd: the projection of the visitor's row, c D_i^-b V, whose length ranks nothing.
    The others: the x that solves (Yᵀ Y + reg I + Yₛᵀ (C - I) Yₛ) x = Yₛᵀ C 1. With P the projector
    and G = Yₛ P Yₛᵀ, the Woodbury identity gives x = P Yₛᵀ (I + (C - I) G)⁻¹ C 1: an n x n system
    instead of d x d. Source: Hu, Koren, Volinsky, "Collaborative filtering for implicit feedback
    datasets", ICDM 2008, eq. 4. For bpr it is the same ridge projection.
    """
    y = embedding.item_factors[rows]
    if not len(rows):
        return np.zeros(embedding.item_factors.shape[1], dtype=np.float32)
    if len(embedding.shares):
        row = (confidence * embedding.shares[rows]).astype(np.float32, copy=False)
        projection: NDArray[np.float32] = row @ y
        return projection
    projected = y @ embedding.projector
    system = (confidence - 1.0)[:, None] * (projected @ y.T)
    system.flat[:: len(rows) + 1] += 1.0
    solution: NDArray[np.float32] = np.linalg.solve(system, confidence) @ projected
    return solution.astype(np.float32, copy=False)


def projected(embedding: Embedding) -> NDArray[np.float32]:
    """What :func:`fold_in_all` needs of all items, float32 [items, d]; empty for svd."""
    if len(embedding.shares):
        return embedding.item_factors[:0]
    return embedding.item_factors @ embedding.projector


def fold_in_all(
    embedding: Embedding,
    projected: NDArray[np.float32],
    starts: NDArray[np.int64],
    rows: NDArray[np.int32],
    confidence: NDArray[np.float32],
) -> NDArray[np.float32]:
    """What :func:`fold_in` gives for many visitors, float32 [visitors, d], up to rounding.

    projected: see :func:`projected`. starts: int64 [visitors + 1], into rows and confidence.
    """
    factors = embedding.item_factors
    if len(embedding.shares):
        weights = (confidence * embedding.shares[rows]).astype(np.float32, copy=False)
        shape = len(starts) - 1, len(factors)
        found: NDArray[np.float32] = sparse.csr_matrix((weights, rows, starts), shape) @ factors
        return found
    vectors = np.zeros((len(starts) - 1, factors.shape[1]), dtype=np.float32)
    _solve_each(factors, projected, starts, rows, confidence, vectors)
    return vectors


@njit(cache=True, nogil=True)
def _solve_each(
    factors: NDArray[np.float32],
    projected: NDArray[np.float32],
    starts: NDArray[np.int64],
    rows: NDArray[np.int32],
    confidence: NDArray[np.float32],
    vectors: NDArray[np.float32],
) -> None:
    for k in range(len(vectors)):
        own = rows[starts[k] : starts[k + 1]]
        if len(own):
            weights = confidence[starts[k] : starts[k + 1]]
            near = projected[own]
            system = np.dot(near, factors[own].T)
            for i in range(len(own)):
                system[i] *= weights[i] - np.float32(1)
                system[i, i] += np.float32(1)
            vectors[k] = np.dot(np.linalg.solve(system, weights), near)
