"""Selection: from ranked candidates to a list: the best, or good ones unlike each other."""

import numpy as np
from numba import njit
from numpy.typing import NDArray

Rows = NDArray[np.int32]
Places = NDArray[np.intp]  # the type that numpy indexes with at once
Floats = NDArray[np.float32]
Scores = NDArray[np.floating]

TINY = np.float32(1e-12)
# Candidates looked at for each place of a diverse list, as more would only add weak ones; and at
# most in all, unless the list itself is longer, as the work grows with their number times n.
PER_PLACE, IN_ALL = 5, 500


def best(rows: Rows, scores: Scores, out: Rows, n: int) -> Places:
    """Places of the n highest scores among rows that are not out, best first, ties by place.

    rows and out: ascending.
    """
    places: Places = _best(rows, scores, out, n)
    return places


def with_share(best: Places, wanted: Places, share: int, n: int) -> Places:
    """A list of n places of which so many are among the wanted ones, where there are enough.

    Where it holds fewer, the first of these that it lacks stand at its end; of the others, the last
    make room. best, wanted: best first.
    """
    there = np.isin(best, wanted)
    lacking = share - int(there.sum())
    more = wanted[~np.isin(wanted, best)][: max(lacking, 0)]
    too_many = len(best) + len(more) - n
    if too_many > 0:
        best = np.delete(best, np.flatnonzero(~there)[-too_many:])
    return np.concatenate([best, more])


def window(n: int) -> int:
    """How many candidates a diverse list of n is chosen from."""
    return max(n, min(PER_PLACE * n, IN_ALL))


def diverse(scores: Scores, vectors: Floats, diversity: float, n: int) -> Places:
    """Places of n candidates that are good and unlike each other, in the order of their choice.

    Maximal marginal relevance (Carbonell & Goldstein, SIGIR 1998): each place goes to the candidate
    with the highest (1 - diversity) * relevance - diversity * similarity, where relevance is the
    score on a scale from 0 (the lowest given) to 1 (the highest), and similarity the highest cosine
    to what stands before it, at least 0: the opposite is no more different than the unlike. The
    best candidate always comes first; ties go to the better score.

    scores: descending. vectors: float32 [scores, d], of any length; zero is like nothing.
    diversity: 0 (relevance alone) to 1 (relevance decides the first place only).
    """
    relevance = np.subtract(scores, scores[-1:], dtype=np.float64)
    relevance /= max(relevance.max(initial=0), TINY)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    places: Places = _diverse(relevance, vectors / np.maximum(lengths, TINY), diversity, n)
    return places


@njit(cache=True, nogil=True)
def _best(rows: Rows, scores: Scores, out: Rows, n: int) -> Places:
    """A heap of the n best, the worst of them on top, then sorted in place."""
    n = min(n, len(rows))
    heap = np.empty(n, np.intp)
    size, barred = 0, 0
    for place in range(len(rows)):
        while barred < len(out) and out[barred] < rows[place]:
            barred += 1
        if barred < len(out) and out[barred] == rows[place]:
            continue
        if size < n:
            at = size
            size += 1
            while at > 0 and _worse(scores, place, heap[(at - 1) >> 1]):
                heap[at] = heap[(at - 1) >> 1]
                at = (at - 1) >> 1
            heap[at] = place
        elif n and _worse(scores, heap[0], place):
            _sink(scores, heap, size, place)
    for end in range(size - 1, 0, -1):
        place = heap[end]
        heap[end] = heap[0]
        _sink(scores, heap, end, place)
    return heap[:size]


@njit(cache=True, nogil=True)
def _worse(scores: Scores, one: int, other: int) -> bool:
    """Whether a place comes after another: by a lower score, or by an equal one further back."""
    worse: bool = scores[one] < scores[other] or (scores[one] == scores[other] and one > other)
    return worse


@njit(cache=True, nogil=True)
def _sink(scores: Scores, heap: Places, size: int, place: int) -> None:
    """Replace the top of a heap and let the new place sink to where it belongs."""
    at = 0
    while 2 * at + 1 < size:
        child = 2 * at + 1
        if child + 1 < size and _worse(scores, heap[child + 1], heap[child]):
            child += 1
        if not _worse(scores, heap[child], place):
            break
        heap[at] = heap[child]
        at = child
    heap[at] = place


@njit(cache=True, nogil=True)
def _diverse(relevance: Scores, unit: Floats, diversity: float, n: int) -> Places:
    n = min(n, len(relevance))
    chosen = np.empty(n, np.intp)
    left = np.arange(len(relevance))  # places not chosen yet, the best first
    nearest = np.zeros(len(relevance), np.float32)  # highest cosine of each to what was chosen
    for at in range(n):
        highest, pick = -np.inf, 0
        for k in range(len(left) - at):
            place = left[k]
            if at:
                nearest[place] = max(nearest[place], _dot(unit[place], unit[chosen[at - 1]]))
            value = relevance[place] - diversity * (relevance[place] + nearest[place])
            if value > highest:
                highest, pick = value, k
            if not at:
                break  # the best comes first
        chosen[at] = left[pick]
        for k in range(pick, len(left) - at - 1):
            left[k] = left[k + 1]
    return chosen


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract", "nsz"})
def _dot(one: Floats, other: Floats) -> np.float32:
    """The inner product; summed in any order, so that it may be done eight numbers at a time."""
    total = np.float32(0)
    for k in range(len(one)):
        total += one[k] * other[k]
    return total
