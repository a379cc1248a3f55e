"""VMIS-kNN as it was published, the yardstick of the benchmark; not part of the product.

B. Kersbergen, O. Sprangers, S. Schelter, "Serenade", SIGMOD 2022, in the form of its reference
implementation (bolcom/serenade, src/vmisknn): of the sessions that hold an item of the query, the
m latest take part; each shared item adds its position in the query, counted from its start, over
the query's number of distinct items; the k most similar sessions vote for their items with
similarity * idf * (1 - 0.1 * place of the newest shared item, counted from 1 at the query's end).
One thing is left out, to its favour: the reference never shows the item on the screen again.
"""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numba import njit
from numpy.typing import NDArray

from recsys.interactions import Sequences

Rows = NDArray[np.int32]

TAIL = 0.1  # share of the training sessions, at the end, on which parameters are chosen
QUERIES = 5_000  # of the tail, at most


@dataclass(frozen=True)
class Parameters:
    """sessions: m. neighbours: k. last_items: of the query; beyond ten the votes turn negative."""

    sessions: int
    neighbours: int
    last_items: int


GRID = [Parameters(*values) for values in product((500, 1500), (100, 300, 500), (3, 6, 9))]


class VmisKnn:
    """The index over training sessions, oldest first, and its query."""

    def __init__(self, sequences: Sequences, items: int, parameters: Parameters) -> None:
        self.parameters = parameters
        self.indptr, self.items = _distinct(sequences.indptr, sequences.items, items)
        self.starts, self.postings, held = _index(
            self.indptr, self.items, items, parameters.sessions
        )
        sessions = len(sequences.indptr) - 1
        self.idf = np.log(sessions / np.maximum(held, 1))
        self._similarity = np.zeros(sessions)
        self._votes = np.zeros(items)

    def recommend(self, query: Rows, n: int) -> Rows:
        """The n rows with most votes. query: int32, newest first, repeats included."""
        p = self.parameters
        return _recommend(
            self.indptr,
            self.items,
            self.starts,
            self.postings,
            self.idf,
            query[: p.last_items],
            p.sessions,
            p.neighbours,
            n,
            self._similarity,
            self._votes,
        )


def tuned(sequences: Sequences, items: int) -> Parameters:
    """The parameters of GRID with the highest P@20 + MRR@20 on the tail of training."""
    sessions = len(sequences.indptr) - 1
    cut = int(sessions * (1 - TAIL))
    head = Sequences(sequences.indptr[: cut + 1], sequences.items[: sequences.indptr[cut]])
    queries = list(_prefixes(sequences, range(cut, sessions)))[-QUERIES:]
    scores = [_quality(VmisKnn(head, items, parameters), queries) for parameters in GRID]
    return GRID[int(np.argmax(scores))]


def reciprocal_rank(rows: Rows, target: int) -> float:
    """1 / place of the target, 0 where it is not among the rows."""
    found = np.flatnonzero(rows == target)
    return 1.0 / (found[0] + 1) if len(found) else 0.0


def _quality(model: VmisKnn, queries: Sequence[tuple[Rows, int]]) -> float:
    ranks = [reciprocal_rank(model.recommend(query, 20), target) for query, target in queries]
    return sum(rank + (rank > 0) for rank in ranks)


def _prefixes(sequences: Sequences, sessions: range) -> list[tuple[Rows, int]]:
    """Every prefix, newest first, with the item that follows it."""
    pairs = []
    for session in sessions:
        items = sequences.items[sequences.indptr[session] : sequences.indptr[session + 1]]
        pairs += [(items[:end][::-1], int(items[end])) for end in range(1, len(items))]
    return pairs


@njit(cache=True)
def _distinct(indptr: NDArray[np.int64], items: Rows, count: int) -> tuple[NDArray[np.int64], Rows]:
    """The sessions without their repeats."""
    starts, kept = np.zeros_like(indptr), np.empty_like(items)
    last = np.full(count, -1)
    size = 0
    for session in range(len(indptr) - 1):
        for p in range(indptr[session], indptr[session + 1]):
            if last[items[p]] != session:
                last[items[p]] = session
                kept[size] = items[p]
                size += 1
        starts[session + 1] = size
    return starts, kept[:size]


@njit(cache=True)
def _index(
    indptr: NDArray[np.int64], items: Rows, count: int, most: int
) -> tuple[NDArray[np.int64], Rows, NDArray[np.int64]]:
    """The latest sessions of each item, latest first, and how many hold it."""
    held = np.bincount(items, minlength=count)
    starts = np.zeros(count + 1, np.int64)
    starts[1:] = np.cumsum(np.minimum(held, most))
    postings, fill = np.empty(starts[-1], np.int32), starts[:-1].copy()
    for session in range(len(indptr) - 2, -1, -1):
        for p in range(indptr[session], indptr[session + 1]):
            item = items[p]
            if fill[item] < starts[item + 1]:
                postings[fill[item]] = session
                fill[item] += 1
    return starts, postings, held


@njit(cache=True)
def _recommend(
    indptr: NDArray[np.int64],
    items: Rows,
    starts: NDArray[np.int64],
    postings: Rows,
    idf: NDArray[np.float64],
    query: Rows,
    m: int,
    k: int,
    n: int,
    similarity: NDArray[np.float64],
    votes: NDArray[np.float64],
) -> Rows:
    """similarity: float64 [sessions], votes: float64 [items]; zero before and after the call."""
    distinct = len(set(query))
    held = [np.int64(0) for _ in range(0)]  # a heap, the oldest session on top
    for place in range(len(query)):
        row = query[place]
        if (query[:place] == row).any():
            continue
        # Whole numbers until all are summed, so that equal sums are equal in whatever order.
        weight = len(query) - place
        for j in range(starts[row], starts[row + 1]):
            session = np.int64(postings[j])
            if similarity[session] > 0:
                similarity[session] += weight
            elif len(held) < m:
                heapq.heappush(held, session)
                similarity[session] = weight
            elif session > held[0]:
                similarity[heapq.heapreplace(held, session)] = 0
                similarity[session] = weight
            else:
                break  # all that follow are older still
    latest_first = np.sort(np.array(held))[::-1]
    near = similarity[latest_first] / distinct
    order = np.argsort(-near, kind="mergesort")[:k]
    similarity[latest_first] = 0
    voted = [np.int32(0) for _ in range(0)]
    for j in order:
        neighbour = items[indptr[latest_first[j]] : indptr[latest_first[j] + 1]]
        newest = 0
        while not (neighbour == query[newest]).any():
            newest += 1
        for row in neighbour:
            if votes[row] == 0:
                voted.append(row)
            votes[row] += near[j] * idf[row] * (1 - 0.1 * (newest + 1))
    rows = np.unique(np.array(voted))
    best = rows[np.argsort(-votes[rows], kind="mergesort")[:n]]
    votes[rows] = 0
    return best
