"""Continuations: what came right after the item a visitor is at, above all where others had come to
it the same way.

Every past event on the last item is looked at: what followed it counts once as it is, and once by
how alike the events before it are to the visitor's. That is a Markov chain of variable order, as in
prediction by partial matching (Cleary and Witten, IEEE Trans. Communications 1984), but of contexts
that need not be equal.
"""

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from recsys.config import ContinuationsConfig
from recsys.interactions import Sequences
from recsys.models.tally import slot

Rows = NDArray[np.int32]
Floats = NDArray[np.float32]

# Rows of what `count` gives.
COUNTS = 6


@dataclass(frozen=True)
class Continuations:
    """All sessions in one row, and where each item stands in it.

    trail: int32, the item rows of every session in order, oldest session first, -1 before, between
    and, twice, after them. starts: int64 [items + 1] into places: int32, an item's latest events as
    places in the trail, latest first.
    """

    trail: Rows
    starts: NDArray[np.int64]
    places: Rows


def fit(sequences: Sequences, items: int, config: ContinuationsConfig) -> Continuations:
    """Lay out the sessions of a log."""
    return Continuations(*_fit(sequences.indptr, sequences.items, items, config.events_per_item))


@njit(cache=True, nogil=True)
def _fit(
    indptr: NDArray[np.int64], items: Rows, count: int, per_item: int
) -> tuple[Rows, NDArray[np.int64], Rows]:
    sessions = len(indptr) - 1
    trail = np.full(len(items) + sessions + 2, -1, np.int32)
    starts = np.zeros(count + 1, np.int64)
    for s in range(sessions):
        for p in range(indptr[s], indptr[s + 1]):
            trail[p + s + 1] = items[p]
            starts[items[p] + 1] += 1
    for item in range(count):
        starts[item + 1] = starts[item] + min(starts[item + 1], per_item)
    places = np.empty(starts[-1], np.int32)
    fill = starts[:-1].copy()
    for place in range(len(trail) - 1, -1, -1):
        item = trail[place]
        if item >= 0 and fill[item] < starts[item + 1]:
            places[fill[item]] = place
            fill[item] += 1
    return trail, starts, places


@njit(cache=True, nogil=True)
def count(
    out: Floats,
    trail: Rows,
    starts: NDArray[np.int64],
    places: Rows,
    sequence: Rows,
    rows: Rows,
    keys: Rows,
    at: Rows,
    context: int,
    decay: float,
) -> None:
    """Fill out, float32 [COUNTS, n], zeros before, for rows and a sequence (newest first, not
    empty). Of the past events on the last item:

    0, 1: the share after which a row came next, and next but one. 2: the events right before them
    that were on a row, as a share of the row's. 3, 4: as 0 and 1, each event counting by how alike
    the way to it was. 5: how much that is in all for a row that came next.

    keys, at: where each row stands, by `slot`. context: so many events before are compared with as
    many of the visitor's. decay: weight kept by each per place further away.
    """
    decays = np.float32(decay) ** np.arange(context).astype(np.float32)
    last = sequence[0]
    first, end = starts[last], starts[last + 1]
    total = np.float32(0)
    # Gathered first, as they lie apart in memory, which brings several at a time to such a loop.
    befores = np.empty(end - first, np.int32)
    for j in range(first, end):
        befores[j - first] = trail[places[j] - 1]
    for j in range(first, end):
        place = places[j]
        before, after = befores[j - first], trail[place + 1]
        likeness = np.float32(0)
        for back in range(context):
            item = trail[place - 1 - back]
            if item < 0:
                break
            for age in range(min(context, len(sequence) - 1)):
                if sequence[1 + age] == item:
                    likeness += decays[back] * decays[age]
                    break
        total += likeness
        if before >= 0:
            found = slot(keys, before)
            if keys[found] == before:
                out[2, at[found]] += 1
        if after >= 0:
            found = slot(keys, after)
            if keys[found] == after:
                out[0, at[found]] += 1
                out[3, at[found]] += likeness
            second = trail[place + 2]
            if second >= 0:
                found = slot(keys, second)
                if keys[found] == second:
                    out[1, at[found]] += 1
                    out[4, at[found]] += likeness
    # One more than there are: a share of few events is no sure thing.
    for n in range(len(rows)):
        out[0, n] /= end - first + 1
        out[1, n] /= end - first + 1
        out[2, n] /= starts[rows[n] + 1] - starts[rows[n]] + 1
        out[5, n] = out[3, n]
        out[3, n] /= total + 1
        out[4, n] /= total + 1
