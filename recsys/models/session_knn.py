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
from recsys.models.tally import best, find, room, slot

Rows = NDArray[np.int32]
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class SessionKnn:
    """Past sessions and where each item stands in them, with every weight that no query changes.

    indptr: int64 [sessions + 1] into items: int32, oldest session first.
    starts: int64 [items + 1] into sessions: int32, the latest sessions of each item, and
    positions: int32, the place of the item's last occurrence in each.
    session_weights: float32 [sessions], by age and length. match_weights, vote_weights: float32
    [items], powers of the idf of an item that is shared, and of one that is voted for.
    """

    indptr: NDArray[np.int64]
    items: Rows
    starts: NDArray[np.int64]
    sessions: Rows
    positions: Rows
    session_weights: Floats
    match_weights: Floats
    vote_weights: Floats


def fit(sequences: Sequences, items: int, config: SessionKnnConfig) -> SessionKnn:
    """Index the sessions of a log."""
    starts, sessions, positions, degree = _index(
        sequences.indptr, sequences.items, items, config.sessions_per_item
    )
    lengths = np.diff(sequences.indptr)
    count = max(1, len(lengths))
    age = 1 - np.arange(len(lengths)) / count
    # An item in every session still says a little, as 0.1 of a nat.
    idf = np.maximum(np.log(count / np.maximum(degree, 1)), 0.1)
    return SessionKnn(
        indptr=sequences.indptr,
        items=sequences.items,
        starts=starts,
        sessions=sessions,
        positions=positions,
        session_weights=(np.exp(-config.age_decay * age) / lengths**config.length_power).astype(
            np.float32
        ),
        match_weights=(idf**config.match_idf).astype(np.float32),
        vote_weights=(idf**config.vote_idf).astype(np.float32),
    )


def propose(
    model: SessionKnn, sequence: Rows, config: SessionKnnConfig, k: int
) -> tuple[Rows, Floats]:
    """The k rows with most votes for a sequence (newest first)."""
    return _propose(
        model.indptr,
        model.items,
        model.starts,
        model.sessions,
        model.positions,
        model.session_weights,
        model.match_weights,
        model.vote_weights,
        sequence[: config.last_items],
        config.neighbours,
        config.decay,
        config.forward_decay,
        config.backward_decay,
        k,
    )


@njit(cache=True, nogil=True)
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


@njit(cache=True, nogil=True)
def _propose(
    indptr: NDArray[np.int64],
    items: Rows,
    starts: NDArray[np.int64],
    sessions: Rows,
    positions: Rows,
    session_weights: Floats,
    match_weights: Floats,
    vote_weights: Floats,
    sequence: Rows,
    neighbours: int,
    decay: float,
    forward_decay: float,
    backward_decay: float,
    k: int,
) -> tuple[Rows, Floats]:
    asking, weights = np.empty(len(sequence), np.int32), np.empty(len(sequence), np.float32)
    distinct = 0
    for place in range(len(sequence)):
        row = sequence[place]
        repeated = False
        for earlier in range(place):
            repeated |= sequence[earlier] == row
        if not repeated:
            asking[distinct] = row
            weights[distinct] = np.float32(np.exp(-decay * place)) * match_weights[row]
            distinct += 1
    nearest, near, matched = _nearest(
        starts,
        sessions,
        positions,
        session_weights,
        asking[:distinct],
        weights[:distinct],
        neighbours,
        0.0,
    )
    # Their items lie apart in memory, which brings several at the same time where one of each is
    # asked for first. Rows are not negative, but the compiler does not know.
    asked = 0
    for session in nearest:
        asked += items[indptr[session]]
    assert asked >= 0
    size, longest = 0, 0
    for session in nearest:
        length = int(indptr[session + 1] - indptr[session])
        size += length
        longest = max(longest, length)
    # Weight by place after (from longest on) and before the matched item.
    nearby = np.ones(2 * longest + 1, np.float32)
    for away in range(1, longest):
        nearby[longest + away] = np.exp(-forward_decay * (away - 1))
        nearby[longest - away] = np.exp(-backward_decay * away)
    count = len(vote_weights)
    names = np.full(room(count, size), -1, np.int32)
    votes = np.zeros(len(names), np.float32)
    voted = np.empty(min(size, count), np.int32)
    n = 0
    for j in range(len(nearest)):
        s = nearest[j]
        shift = longest - indptr[s] - matched[j]
        for p in range(indptr[s], indptr[s + 1]):
            at = find(names, items[p], count)
            if names[at] == -1:
                names[at] = items[p]
                voted[n] = at
                n += 1
            votes[at] += near[j] * nearby[p + shift]
    voted = voted[:n]
    rows = names[voted]
    return best(rows, votes[voted] * vote_weights[rows], k)


@njit(cache=True, nogil=True)
def vote(
    out: Floats,
    indptr: NDArray[np.int64],
    items: Rows,
    starts: NDArray[np.int64],
    sessions: Rows,
    positions: Rows,
    session_weights: Floats,
    match_weights: Floats,
    live: Rows,
    neighbours: int,
    age: float,
    keys: Rows,
    at: Rows,
) -> None:
    """Add to out, float32 [n], the similarities of the sessions that share most with all of live
    (distinct rows) to every row in them.

    age: exponent over the share of sessions after the neighbour. keys, at: where each row stands,
    by `slot`.
    """
    nearest, near, _ = _nearest(
        starts, sessions, positions, session_weights, live, match_weights[live], neighbours, age
    )
    for j in range(len(nearest)):
        for p in range(indptr[nearest[j]], indptr[nearest[j] + 1]):
            found = slot(keys, items[p])
            if keys[found] == items[p]:
                out[at[found]] += near[j]


@njit(cache=True, nogil=True)
def _nearest(
    starts: NDArray[np.int64],
    sessions: Rows,
    positions: Rows,
    session_weights: Floats,
    rows: Rows,
    weights: Floats,
    neighbours: int,
    age: float,
) -> tuple[Rows, Floats, Rows]:
    """The sessions most alike to distinct weighted rows, how much they are, and where the first of
    the rows that is in one stands in it."""
    total = 0
    for row in rows:
        total += starts[row + 1] - starts[row]
    count = len(session_weights)
    keys = np.full(room(count, total), -1, np.int32)
    similarity = np.zeros(len(keys), np.float32)
    matched = np.zeros(len(keys), np.int32)
    used = np.empty(min(total, count), np.int32)
    found = 0
    for k in range(len(rows)):
        for j in range(starts[rows[k]], starts[rows[k] + 1]):
            at = find(keys, sessions[j], count)
            if keys[at] == -1:
                keys[at] = sessions[j]
                used[found] = at
                found += 1
                # The newest matching item is met first; its place is where the visitor "is".
                matched[at] = positions[j]
            similarity[at] += weights[k]
    used = used[:found]
    for entry in used:
        similarity[entry] *= session_weights[keys[entry]]
        if age:
            similarity[entry] *= np.exp(np.float32(age) * np.float32(keys[entry] / count - 1))
    nearest, near = keys[used], similarity[used]
    if found > neighbours:
        nearest, near = best(nearest, near, neighbours)
    where = np.empty(len(nearest), np.int32)
    for j in range(len(nearest)):
        where[j] = matched[find(keys, nearest[j], count)]
    return nearest, near, where
