"""Session-kNN: sessions like this one vote for the items that stood in them.

The index and search are VMIS-kNN (Kersbergen, Sprangers, Schelter, "Serenade", SIGMOD 2022): per
item the most recent sessions that hold it. The decays are STAN's (Garg et al., SIGIR 2019): of the
query's position, of the neighbour's age, and around the matched position in the neighbour.
"""

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from recsys.config import SessionKnnConfig
from recsys.interactions import Sequences
from recsys.models.tally import best, capacity, slot

Rows = NDArray[np.int32]
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class SessionKnn:
    """Past sessions and where each item stands in them.

    indptr: int64 [sessions + 1] into items: int32, oldest session first. idf: float32 [items].
    starts: int64 [items + 1] into sessions: int32, the latest sessions of each item, and
    positions: int32, the place of the item's last occurrence in each.
    """

    indptr: NDArray[np.int64]
    items: Rows
    idf: Floats
    starts: NDArray[np.int64]
    sessions: Rows
    positions: Rows


def fit(sequences: Sequences, items: int, config: SessionKnnConfig) -> SessionKnn:
    """Index the sessions of a log."""
    starts, sessions, positions, degree = _index(
        sequences.indptr, sequences.items, items, config.sessions_per_item
    )
    # An item in every session still says a little, as 0.1 of a nat.
    idf = np.log(max(1, len(sequences.indptr) - 1) / np.maximum(degree, 1))
    return SessionKnn(
        indptr=sequences.indptr,
        items=sequences.items,
        idf=np.maximum(idf, 0.1).astype(np.float32),
        starts=starts,
        sessions=sessions,
        positions=positions,
    )


def propose(
    model: SessionKnn, sequence: Rows, config: SessionKnnConfig, k: int
) -> tuple[Rows, Floats]:
    """The k rows with most votes for a sequence (newest first)."""
    return _propose(
        model.indptr,
        model.items,
        model.idf,
        model.starts,
        model.sessions,
        model.positions,
        sequence[: config.last_items],
        config.neighbours,
        config.decay,
        config.age_decay,
        config.forward_decay,
        config.backward_decay,
        config.match_idf,
        config.vote_idf,
        config.length_power,
        k,
    )


@njit(cache=True)
def _index(
    indptr: NDArray[np.int64], items: Rows, count: int, per_item: int
) -> tuple[NDArray[np.int64], Rows, Rows, NDArray[np.int64]]:
    sessions = len(indptr) - 1
    degree = np.zeros(count, np.int64)
    last = np.full(count, -1, np.int64)
    for s in range(sessions):
        for p in range(indptr[s], indptr[s + 1]):
            if last[items[p]] != s:
                degree[items[p]] += 1
                last[items[p]] = s
    starts = np.zeros(count + 1, np.int64)
    for item in range(count):
        starts[item + 1] = starts[item] + min(degree[item], per_item)
    postings, positions = np.empty(starts[-1], np.int32), np.empty(starts[-1], np.int32)
    fill = starts[:-1].copy()
    last[:] = -1
    for s in range(sessions - 1, -1, -1):
        for p in range(indptr[s + 1] - 1, indptr[s] - 1, -1):
            item = items[p]
            if last[item] == s:
                continue
            last[item] = s
            if fill[item] < starts[item + 1]:
                postings[fill[item]] = s
                positions[fill[item]] = p - indptr[s]
                fill[item] += 1
    return starts, postings, positions, degree


@njit(cache=True)
def _propose(
    indptr: NDArray[np.int64],
    items: Rows,
    idf: Floats,
    starts: NDArray[np.int64],
    sessions: Rows,
    positions: Rows,
    sequence: Rows,
    neighbours: int,
    decay: float,
    age_decay: float,
    forward_decay: float,
    backward_decay: float,
    match_idf: float,
    vote_idf: float,
    length_power: float,
    k: int,
) -> tuple[Rows, Floats]:
    total = 0
    for row in sequence:
        total += starts[row + 1] - starts[row]
    keys = np.full(capacity(total), -1, np.int32)
    similarity = np.zeros(len(keys), np.float32)
    matched = np.zeros(len(keys), np.int32)
    used = np.empty(total, np.int32)
    found = 0
    for place in range(len(sequence)):
        row = sequence[place]
        repeated = False
        for earlier in range(place):
            repeated |= sequence[earlier] == row
        if repeated:
            continue
        weight = np.exp(-decay * place) * idf[row] ** match_idf
        for j in range(starts[row], starts[row + 1]):
            at = slot(keys, sessions[j])
            if keys[at] == -1:
                keys[at] = sessions[j]
                used[found] = at
                found += 1
                # The newest matching item is met first; its place is where the visitor "is".
                matched[at] = positions[j]
            similarity[at] += weight
    used = used[:found]
    count = len(indptr) - 1
    for entry in used:
        s = keys[entry]
        length = indptr[s + 1] - indptr[s]
        similarity[entry] *= np.exp(-age_decay * (count - s) / count) / length**length_power
    nearest, near = best(used, similarity[used], neighbours)
    size = 0
    for at in nearest:
        size += indptr[keys[at] + 1] - indptr[keys[at]]
    names = np.full(capacity(size), -1, np.int32)
    votes = np.zeros(len(names), np.float32)
    voted = np.empty(size, np.int32)
    n = 0
    for j in range(len(nearest)):
        s = keys[nearest[j]]
        here = indptr[s] + matched[nearest[j]]
        for p in range(indptr[s], indptr[s + 1]):
            away = p - here
            factor = 1.0
            if away > 0:
                factor = np.exp(-forward_decay * (away - 1))
            elif away < 0:
                factor = np.exp(backward_decay * away)
            at = slot(names, items[p])
            if names[at] == -1:
                names[at] = items[p]
                voted[n] = at
                n += 1
            votes[at] += near[j] * factor
    rows = names[voted[:n]]
    scores = votes[voted[:n]]
    for j in range(n):
        scores[j] *= idf[rows[j]] ** vote_idf
    return best(rows, scores, k)
