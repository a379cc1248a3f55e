"""Tally: compiled counting of scores over few of many rows, and the best of them.

The sources touch a few thousand of up to millions of rows per request, so scores are kept in a
small open-addressing table rather than in an array over all rows.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

Rows = NDArray[np.int32]
Floats = NDArray[np.float32]
Longs = NDArray[np.int64]


@njit(cache=True, nogil=True)
def capacity(entries: int) -> int:
    """The table size for up to ``entries`` distinct keys: a power of two, at most half full."""
    size = 64
    while size < 2 * entries:
        size *= 2
    return size


@njit(cache=True, nogil=True)
def slot(keys: Rows, key: int) -> int:
    """Where a key stands, or the free place (-1) where it belongs. keys: a power of two long."""
    mask = len(keys) - 1
    at = (key * 2654435761) & mask
    while keys[at] != -1 and keys[at] != key:
        at = (at + 1) & mask
    return at


@njit(cache=True, nogil=True)
def room(count: int, entries: int) -> int:
    """How long the keys of a tally of up to ``entries`` of ``count`` rows are: where there are few
    rows each has its own place, without a search and in less memory."""
    return min(count, capacity(entries))


@njit(cache=True, nogil=True)
def find(keys: Rows, key: int, count: int) -> int:
    """Where a row stands, or is to stand, in keys of ``room`` for ``count`` rows."""
    return key if len(keys) == count else slot(keys, key)


@njit(cache=True, nogil=True)
def best(rows: Rows, scores: Floats, k: int) -> tuple[Rows, Floats]:
    """The k highest scores, descending, ties by row; a heap of k, then sorted in place."""
    k = min(k, len(rows))
    top_rows, top = np.empty(k, np.int32), np.empty(k, np.float32)
    size = 0
    for n in range(len(rows)):
        score, row = scores[n], rows[n]
        if size < k:
            at = size
            size += 1
            while at > 0:
                parent = (at - 1) >> 1
                if top[parent] < score or (top[parent] == score and top_rows[parent] > row):
                    break
                top[at], top_rows[at] = top[parent], top_rows[parent]
                at = parent
            top[at], top_rows[at] = score, row
        elif k and (score > top[0] or (score == top[0] and row < top_rows[0])):
            _sink(top_rows, top, size, row, score)
    for end in range(size - 1, 0, -1):
        score, row = top[end], top_rows[end]
        top[end], top_rows[end] = top[0], top_rows[0]
        _sink(top_rows, top, end, row, score)
    return top_rows, top


@njit(cache=True, nogil=True)
def vote(
    starts: Longs, neighbours: Rows, values: Floats, rows: Rows, weights: Floats, k: int
) -> tuple[Rows, Floats]:
    """The k best rows by the sum of weight * value over the neighbours of weighted rows.

    starts: int64 [items + 1], where the neighbours of each item begin in neighbours, int32, and
    values, float32.
    """
    count, entries = len(starts) - 1, 0
    for row in rows:
        entries += starts[row + 1] - starts[row]
    keys = np.full(room(count, entries), -1, np.int32)
    totals = np.zeros(len(keys), np.float32)
    used = np.empty(min(count, entries), np.int32)
    n = 0
    for voter in range(len(rows)):
        for j in range(starts[rows[voter]], starts[rows[voter] + 1]):
            near = neighbours[j]
            at = find(keys, near, count)
            if keys[at] == -1:
                keys[at] = near
                used[n] = at
                n += 1
            totals[at] += weights[voter] * values[j]
    return best(keys[used[:n]], totals[used[:n]], k)


@njit(cache=True, nogil=True)
def _sink(top_rows: Rows, top: Floats, size: int, row: int, score: float) -> None:
    """Replace the worst (first) of a heap by an entry and let it sink to its place."""
    at = 0
    while True:
        child = 2 * at + 1
        if child >= size:
            break
        right = child + 1
        if right < size and (
            top[right] < top[child]
            or (top[right] == top[child] and top_rows[right] > top_rows[child])
        ):
            child = right
        if not (top[child] < score or (top[child] == score and top_rows[child] > row)):
            break
        top[at], top_rows[at] = top[child], top_rows[child]
        at = child
    top[at], top_rows[at] = score, row
