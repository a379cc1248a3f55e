"""Top-k: the items with the highest inner products for many vectors at once, exactly.

A block of vectors meets a block of items in one matrix product, small enough to stay in the cache,
and what beats the vector's worst item so far is put aside; once so much is put aside, only the best
are kept. Items come by descending length: a vector has all of its best once its own length times
that of the next item is no more than the worst of them (Teflioudi et al., "LEMP", SIGMOD 2015).
"""

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

Rows = NDArray[np.int32]
Floats = NDArray[np.float32]
Starts = NDArray[np.int64]

VECTORS, ITEMS = 512, 512  # of one product: a megabyte of float32
STRIDE = 16  # products compared at a time, which divides ITEMS
SPARE = 16  # found beyond n, as the matrix product rounds in another way than the final scores
ROOM = 3  # items put aside for each that is kept
SLACK = np.float32(1 + 1e-5)  # of lengths, for the same reason as spare ones


@dataclass(frozen=True)
class Longest:
    """Items by descending length.

    panels: float32 [blocks, d, ITEMS], factors of items, zero behind the last. lengths: float32
    [items]. rows: int32 [items], which of all each is. places: int32 [all rows], where each row
    stands, -1 for those that are left out. factors: float32 [all rows, d].
    """

    panels: Floats
    lengths: Floats
    rows: Rows
    places: Rows
    factors: Floats

    @classmethod
    def of(cls, factors: Floats, allowed: NDArray[np.bool_] | None = None) -> "Longest":
        """Of item factors, float32 [rows, d], those that are allowed: bool [rows], None: all."""
        lengths = np.linalg.norm(factors, axis=1).astype(np.float32)
        rows = np.argsort(-lengths, kind="stable").astype(np.int32)
        if allowed is not None:
            rows = rows[allowed[rows]]
        places = np.full(len(factors), -1, dtype=np.int32)
        places[rows] = np.arange(len(rows), dtype=np.int32)
        panels = np.zeros((-(-len(rows) // ITEMS), factors.shape[1], ITEMS), dtype=np.float32)
        for k, panel in enumerate(panels):
            own = rows[k * ITEMS : (k + 1) * ITEMS]
            panel[:, : len(own)] = factors[own].T
        return cls(panels, lengths[rows], rows, places, factors)


def top(items: Longest, vectors: Floats, starts: Starts, out: Rows, n: int) -> tuple[Rows, Floats]:
    """Rows and inner products of the n best items of each vector, best first, ties by row.

    vectors: float32 [vectors, d]. starts: int64 [vectors + 1], into out: int32, the rows that a
    vector's list may not hold, each once. Returns int32 and float32 [vectors, n]; where there are
    fewer items, the row is -1 and the product 0.

    The same for a vector wherever it stands among others, but for items whose products are equal to
    the last digits.
    """
    found = [
        _block(items, vectors[at : at + VECTORS], starts[at : at + VECTORS + 1], out, n)
        for at in range(0, len(vectors), VECTORS)
    ]
    rows = [np.zeros((0, n), np.int32), *(rows for rows, _ in found)]
    products = [np.zeros((0, n), np.float32), *(products for _, products in found)]
    return np.concatenate(rows), np.concatenate(products)


def _block(
    items: Longest, vectors: Floats, starts: Starts, out: Rows, n: int
) -> tuple[Rows, Floats]:
    count, depth = len(vectors), min(n + SPARE, len(items.rows))
    barred = items.places[out[starts[0] : starts[-1]]]
    starts = starts - starts[0]
    passed = _sorted_each(starts, barred)
    products = np.empty((count, ROOM * depth + STRIDE), np.float32)
    places = np.empty(products.shape, np.int32)
    sizes = np.zeros(count, np.int64)
    worst = np.full(count, -np.inf, np.float32)
    lengths = np.linalg.norm(vectors, axis=1).astype(np.float32) * SLACK
    room = np.empty(count * ITEMS, np.float32)
    open_, asked = np.arange(count), vectors
    for k, panel in enumerate(items.panels):
        first = k * ITEMS
        left = lengths[open_] * items.lengths[first] >= worst[open_]
        if not left.all():
            open_ = open_[left]
            asked = vectors[open_]
        if not len(open_):
            break
        block = room[: len(open_) * ITEMS].reshape(len(open_), ITEMS)
        np.matmul(asked, panel, out=block)
        block[:, len(items.rows) - first :] = -np.inf
        _bar(block, open_, first, passed, starts, barred)
        _put_aside(block, open_, first, products, places, sizes, worst, depth)
    rows, scores = np.full((count, n), -1, np.int32), np.zeros((count, n), np.float32)
    _finish(vectors, items.factors, items.rows, products, places, sizes, depth, rows, scores)
    return rows, scores


@njit(cache=True, nogil=True)
def _sorted_each(starts: Starts, values: Rows) -> Starts:
    """Sort each part of values in place; returns where each goes on behind those below 0."""
    passed = starts[:-1].copy()
    for k in range(len(passed)):
        values[starts[k] : starts[k + 1]].sort()
        while passed[k] < starts[k + 1] and values[passed[k]] < 0:
            passed[k] += 1
    return passed


@njit(cache=True, nogil=True)
def _bar(
    block: Floats,
    open_: NDArray[np.intp],
    first: int,
    passed: Starts,
    starts: Starts,
    barred: Rows,
) -> None:
    """Take from a block what a vector's list may not hold. passed: int64 [vectors], how far."""
    for k in range(len(open_)):
        at = open_[k]
        while passed[at] < starts[at + 1] and barred[passed[at]] < first + block.shape[1]:
            block[k, barred[passed[at]] - first] = -np.inf
            passed[at] += 1


@njit(cache=True, nogil=True)
def _put_aside(
    block: Floats,
    open_: NDArray[np.intp],
    first: int,
    products: Floats,
    places: Rows,
    sizes: NDArray[np.int64],
    worst: Floats,
    depth: int,
) -> None:
    """Put aside what is better than a vector's worst, which rises as only ``depth`` are kept.

    block: float32 [open, items], the products of items from the place first on.
    """
    most = products.shape[1] - STRIDE
    for k in range(len(open_)):
        at = open_[k]
        bound, size = worst[at], sizes[at]
        for start in range(0, block.shape[1], STRIDE):
            better = 0
            for j in range(STRIDE):  # without a branch: all of them at once
                better += block[k, start + j] > bound
            if not better:
                continue
            if size > most:
                bound, size = _keep(products[at], places[at], size, depth), depth
            for j in range(start, start + STRIDE):  # likewise; what is no better is written over
                products[at, size], places[at, size] = block[k, j], first + j
                size += block[k, j] > bound
        worst[at], sizes[at] = bound, size


@njit(cache=True, nogil=True)
def _keep(products: Floats, places: Rows, size: int, depth: int) -> np.float32:
    """Move the ``depth`` best of ``size`` to the front, in any order; returns the worst of them.

    Of equal ones the first places are better.
    """
    low, high, last = 0, size - 1, depth - 1
    while low < high:
        middle, i, j = (low + high) >> 1, low, high
        pivot, place = products[middle], places[middle]
        while i <= j:
            while products[i] > pivot or (products[i] == pivot and places[i] < place):
                i += 1
            while products[j] < pivot or (products[j] == pivot and places[j] > place):
                j -= 1
            if i <= j:
                products[i], products[j] = products[j], products[i]
                places[i], places[j] = places[j], places[i]
                i, j = i + 1, j - 1
        if last <= j:
            high = j
        elif last >= i:
            low = i
        else:
            break
    worst: np.float32 = products[last]
    return worst


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract", "nsz"})
def _finish(
    vectors: Floats,
    factors: Floats,
    names: Rows,
    products: Floats,
    places: Rows,
    sizes: NDArray[np.int64],
    depth: int,
    rows: Rows,
    scores: Floats,
) -> None:
    """The best of each vector in order, by products that depend on it and the item alone."""
    n = rows.shape[1]
    held = np.empty(depth, np.float32)
    order = np.empty(depth, np.int32)
    for k in range(len(vectors)):
        count = sizes[k]
        if count > depth:
            _keep(products[k], places[k], count, depth)
            count = depth
        for size in range(count):
            row, at = names[places[k, size]], size
            total = np.float32(0)
            for j in range(vectors.shape[1]):
                total += vectors[k, j] * factors[row, j]
            while at > 0 and (
                held[at - 1] < total or (held[at - 1] == total and order[at - 1] > row)
            ):
                held[at], order[at] = held[at - 1], order[at - 1]
                at -= 1
            held[at], order[at] = total, row
        found = min(n, count)
        rows[k, :found], scores[k, :found] = order[:found], held[:found]
