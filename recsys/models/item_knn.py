"""Item-kNN: items that share sessions (Sarwar et al., WWW 2001; Deshpande & Karypis, TOIS 2004)."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from recsys.config import ItemKnnConfig
from recsys.models.tally import vote

Rows = NDArray[np.int32]
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class ItemKnn:
    """starts: int64 [items + 1] into neighbours: int32, the nearest first, and similarities:
    float32."""

    starts: NDArray[np.int64]
    neighbours: NDArray[np.int32]
    similarities: NDArray[np.float32]


def fit(
    by_session: sparse.csr_matrix, config: ItemKnnConfig, threads: int, in_order: bool = True
) -> ItemKnn:
    """The nearest items of each under co(i, j) / (degree(i) degree(j)) ** degree_power.

    co(i, j): sum over the sessions with both of 1 / (their number of items) ** length_power, times
    exp(-age_decay * share of sessions after) where the rows are in order of time.
    """
    from implicit.nearest_neighbours import all_pairs_knn  # as in als.py

    items = by_session.shape[1]
    lengths = np.maximum(np.asarray(by_session.sum(axis=1)).ravel(), 1.0)
    weights = lengths**-config.length_power
    if in_order:
        weights *= np.exp(-config.age_decay * np.linspace(1, 0, len(lengths)))
    degree = np.asarray(by_session.sum(axis=0)).ravel()
    scale = sparse.diags_array(np.maximum(degree, 1.0) ** -config.degree_power)
    normalised = sparse.csr_matrix(
        sparse.diags_array(np.sqrt(weights)) @ by_session @ scale, dtype=np.float64
    )
    k = min(config.neighbours, items - 1)
    # One more than asked for: each item is its own nearest neighbour.
    pairs = all_pairs_knn(normalised, k + 1, show_progress=False, num_threads=threads).tocoo()
    real = (pairs.row != pairs.col) & (pairs.data > 0)
    return _table(pairs.row[real], pairs.col[real], pairs.data[real], items, k)


def propose(model: ItemKnn, rows: Rows, weights: Floats, k: int) -> tuple[Rows, Floats]:
    """The k nearest rows to weighted ones: sum of weight * similarity over sum of weights."""
    total = np.float32(weights.sum()) if len(weights) else np.float32(1)
    return vote(model.starts, model.neighbours, model.similarities, rows, weights / total, k)


def _table(
    row: NDArray[np.int32],
    col: NDArray[np.int32],
    data: NDArray[np.float64],
    items: int,
    k: int,
) -> ItemKnn:
    order = np.lexsort((col, -data, row))
    row, col, data = row[order], col[order], data[order]
    first = np.searchsorted(row, np.arange(items))
    kept = np.arange(len(row)) - first[row] < k
    starts = np.concatenate([[0], np.cumsum(np.bincount(row[kept], minlength=items))])
    return ItemKnn(
        starts.astype(np.int64), col[kept].astype(np.int32), data[kept].astype(np.float32)
    )
