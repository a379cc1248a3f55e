"""Transitions: what is touched after, and before, an item in the same session.

A first-order Markov chain over sessions, softened by distance; source: Ludewig and Jannach,
"Evaluation of session-based recommendation algorithms", UMUAI 2018 (sequential rules, "SR").
"""

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from recsys.config import TransitionsConfig
from recsys.interactions import Sequences
from recsys.models.tally import best, vote

Rows = NDArray[np.int32]
Floats = NDArray[np.float32]
Longs = NDArray[np.int64]


@dataclass(frozen=True)
class Transitions:
    """starts: int64 [items + 1] into neighbours: int32, the best first, and shares: float32, of all
    that the item has."""

    starts: Longs
    neighbours: Rows
    shares: Floats


def fit(sequences: Sequences, items: int, config: TransitionsConfig) -> Transitions:
    """The strongest transitions of each item, as shares of all its transitions, descending."""
    found = _fit(
        sequences.indptr,
        sequences.items,
        items,
        config.window,
        config.distance_decay,
        config.backward,
        config.age_decay,
        config.neighbours,
    )
    return Transitions(*found)


def propose(
    model: Transitions, sequence: Rows, config: TransitionsConfig, k: int
) -> tuple[Rows, Floats]:
    """The k likeliest rows after a sequence (newest first): shares summed, older items less."""
    recent = sequence[: config.last_items]
    weights = np.float32(config.decay) ** np.arange(len(recent), dtype=np.float32)
    return vote(model.starts, model.neighbours, model.shares, recent, weights, k)


@njit(cache=True, nogil=True)
def _fit(
    indptr: NDArray[np.int64],
    items: Rows,
    count: int,
    window: int,
    distance_decay: float,
    backward: float,
    age_decay: float,
    width: int,
) -> tuple[Longs, Rows, Floats]:
    sessions = len(indptr) - 1
    pairs = np.zeros(count + 1, np.int64)
    for s in range(sessions):
        for p in range(indptr[s], indptr[s + 1]):
            first, last = max(indptr[s], p - window), min(indptr[s + 1] - 1, p + window)
            pairs[items[p] + 1] += last - first
    start = np.cumsum(pairs)
    fill = start[:-1].copy()
    other, weight = np.empty(start[-1], np.int32), np.empty(start[-1], np.float32)
    for s in range(sessions):
        age = np.exp(-age_decay * (sessions - s) / sessions)
        for p in range(indptr[s], indptr[s + 1]):
            first, last = max(indptr[s], p - window), min(indptr[s + 1] - 1, p + window)
            for q in range(first, last + 1):
                if q == p:
                    continue
                factor = age * distance_decay ** (abs(q - p) - 1)
                at = fill[items[p]]
                fill[items[p]] += 1
                other[at] = items[q]
                weight[at] = factor if q > p else factor * backward
    room = 0
    for item in range(count):
        room += min(width, start[item + 1] - start[item])
    starts = np.zeros(count + 1, np.int64)
    neighbours, shares = np.empty(room, np.int32), np.empty(room, np.float32)
    for item in range(count):
        a, b = start[item], start[item + 1]
        starts[item + 1] = starts[item]
        if a == b:
            continue
        order = np.argsort(other[a:b], kind="mergesort")
        rows, sums = np.empty(b - a, np.int32), np.zeros(b - a, np.float32)
        n, total = 0, np.float32(0)
        for k in order:
            if n == 0 or rows[n - 1] != other[a + k]:
                rows[n] = other[a + k]
                n += 1
            sums[n - 1] += weight[a + k]
            total += weight[a + k]
        top_rows, top = best(rows[:n], sums[:n], width)
        kept = 0  # of what comes before alone nothing is, where it counts for nothing
        while kept < len(top) and top[kept] > 0:
            kept += 1
        if kept:
            first, end = starts[item], starts[item] + kept
            neighbours[first:end], shares[first:end] = top_rows[:kept], top[:kept] / total
            starts[item + 1] = end
    return starts, neighbours[: starts[-1]].copy(), shares[: starts[-1]].copy()
