"""Grouped: a log's events brought together by visitor and by session, as arrays in CSR form.

Events are told in order of time by parallel arrays. A group's own are few and lie together once
they have been put in place, so that all else runs over memory in order.
"""

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

Rows = NDArray[np.int32]
Longs = NDArray[np.int64]
Doubles = NDArray[np.float64]
Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]

SHORT = 24  # keys that are sorted by insertion


class Visitors(NamedTuple):
    """What each visitor did, without those that did nothing.

    indptr: int64 [visitors + 1]. items: int32, ascending, each once; weights: float32, summed.
    latest, their_weights, bought: of the first visitors, the known users, the same entries with the
    item touched last first, and whether it was bought.
    """

    indptr: Longs
    items: Rows
    weights: Floats
    latest: Rows
    their_weights: Floats
    bought: Bools


class Sessions(NamedTuple):
    """What happened in each session.

    indptr: int64 [sessions + 1]. items: int32, ascending, each once. ends: int64, the sessions'
    last events, ascending; starts: int64 [sessions + 1], and sequence: int32, the items of all
    events, the session that ended first, first. known: bool, in that order, whether somebody known
    was there. visits: int32, the places in that order of each user's sessions, the latest first;
    their_visits: int64 [users + 1], where each user's begin.
    """

    indptr: Longs
    items: Rows
    ends: Longs
    starts: Longs
    sequence: Rows
    known: Bools
    their_visits: Longs
    visits: Rows


def by_visitor(visitor: Longs, item: Rows, weight: Doubles, bought: Bools, users: int) -> Visitors:
    """Group events by visitor; those below ``users`` are known and all have events."""
    starts = _starts(visitor, int(visitor.max()) + 1)
    return Visitors(*_visitors(starts, visitor, item, weight, bought, users))


def by_session(session: Rows, item: Rows, user: Rows, users: int) -> Sessions:
    """Group events by session, of which all have events. user: -1 where nobody is known."""
    starts = _starts(session, int(session.max()) + 1)
    return Sessions(*_sessions(starts, session, item, user, users))


@njit(cache=True, nogil=True)
def _starts(group: NDArray[np.integer], groups: int) -> Longs:
    """Where the events of each group begin once they lie together, and where the last end."""
    starts = np.zeros(groups + 1, np.int64)
    for k in range(len(group)):
        starts[group[k] + 1] += 1
    for g in range(groups):
        starts[g + 1] += starts[g]
    return starts


@njit(cache=True, nogil=True)
def _sort(keys: Longs, n: int) -> None:
    """Sort the first n keys."""
    if n > SHORT:
        keys[:n] = np.sort(keys[:n])
        return
    for k in range(1, n):
        key, at = keys[k], k
        while at > 0 and keys[at - 1] > key:
            keys[at] = keys[at - 1]
            at -= 1
        keys[at] = key


@njit(cache=True, nogil=True)
def _visitors(
    starts: Longs, visitor: Longs, item: Rows, weight: Doubles, bought: Bools, users: int
) -> tuple[Longs, Rows, Floats, Rows, Floats, Bools]:
    events, visitors, longest = len(visitor), len(starts) - 1, 0
    for v in range(visitors):
        longest = max(longest, starts[v + 1] - starts[v])
    fill = starts[:-1].copy()
    own, weights = np.empty(events, np.int32), np.empty(events, np.float64)
    for k in range(events):
        at = fill[visitor[k]]
        fill[visitor[k]] += 1
        own[at] = ~item[k] if bought[k] else item[k]
        weights[at] = weight[k]
    indptr, rows = np.zeros(visitors + 1, np.int64), 0
    items, sums, n = np.empty(events, np.int32), np.empty(events, np.float32), 0
    theirs = starts[users]
    latest, their_weights = np.empty(theirs, np.int32), np.empty(theirs, np.float32)
    was_bought = np.empty(theirs, np.bool_)
    keys, last = np.empty(longest, np.int64), np.empty(longest, np.int64)
    got = np.empty(longest, np.bool_)
    for v in range(visitors):
        begin, count = starts[v], starts[v + 1] - starts[v]
        if count == 0:
            continue
        for k in range(count):
            what = own[begin + k]
            keys[k] = (np.int64(~what if what < 0 else what) << 32) | k
        _sort(keys, count)
        first, k = n, 0
        while k < count:
            this, total, buys = keys[k] >> 32, 0.0, False
            while k < count and keys[k] >> 32 == this:
                place = keys[k] & 0xFFFFFFFF
                total += weights[begin + place]
                buys |= own[begin + place] < 0
                k += 1
            items[n], sums[n] = this, total
            # The latest first: sorted by how far from the end it was.
            last[n - first] = ((count - place) << 32) | (n - first)
            got[n - first] = buys
            n += 1
        rows += 1
        indptr[rows] = n
        if v < users:
            _sort(last, n - first)
            for k in range(n - first):
                at = last[k] & 0xFFFFFFFF
                latest[first + k], their_weights[first + k] = items[first + at], sums[first + at]
                was_bought[first + k] = got[at]
    theirs = indptr[users]
    return (
        indptr[: rows + 1].copy(),
        items[:n].copy(),
        sums[:n].copy(),
        latest[:theirs].copy(),
        their_weights[:theirs].copy(),
        was_bought[:theirs].copy(),
    )


@njit(cache=True, nogil=True)
def _sessions(
    starts: Longs, session: Rows, item: Rows, user: Rows, users: int
) -> tuple[Longs, Rows, Longs, Longs, Rows, Bools, Longs, Rows]:
    events, sessions, longest = len(session), len(starts) - 1, 0
    for s in range(sessions):
        longest = max(longest, starts[s + 1] - starts[s])
    fill, last = starts[:-1].copy(), np.empty(sessions, np.int64)
    own, theirs = np.empty(events, np.int32), np.empty(events, np.int32)
    for k in range(events):
        at = fill[session[k]]
        fill[session[k]] += 1
        own[at], theirs[at] = item[k], user[k]
        last[session[k]] = k
    indptr, items, n = np.zeros(sessions + 1, np.int64), np.empty(events, np.int32), 0
    known, visitors = np.zeros(sessions, np.bool_), np.zeros(sessions, np.int64)
    their_visits = np.zeros(users + 1, np.int64)
    keys = np.empty(longest, np.int64)
    for s in range(sessions):
        begin, count, there = starts[s], starts[s + 1] - starts[s], 0
        for k in range(count):
            # A session is somebody's from the event on that says so; an earlier one may not.
            if theirs[begin + k] >= 0:
                keys[there] = theirs[begin + k]
                there += 1
        known[s] = there > 0
        _sort(keys, there)
        for k in range(there):
            if k == 0 or keys[k] != keys[k - 1]:
                theirs[begin + visitors[s]] = keys[k]  # each once; no more are read of this session
                visitors[s] += 1
                their_visits[keys[k] + 1] += 1
        for k in range(count):
            keys[k] = (np.int64(own[begin + k]) << 32) | k
        _sort(keys, count)
        before = np.int64(-1)
        for k in range(count):
            this = keys[k] >> 32
            if this != before:
                items[n], before = this, this
                n += 1
        indptr[s + 1] = n
    # In the order of their ends: each event ends one session at most.
    of = np.full(events, -1, np.int32)
    for s in range(sessions):
        of[last[s]] = s
    ends, sequence_starts = np.empty(sessions, np.int64), np.zeros(sessions + 1, np.int64)
    sequence, in_order, at = np.empty(events, np.int32), np.empty(sessions, np.bool_), 0
    for u in range(users):
        their_visits[u + 1] += their_visits[u]
    visits, free = np.empty(their_visits[users], np.int32), their_visits[1:].copy()
    for k in range(events):
        s = of[k]
        if s < 0:
            continue
        ends[at], in_order[at], filled = k, known[s], sequence_starts[at]
        for place in range(starts[s], starts[s + 1]):
            sequence[filled] = own[place]
            filled += 1
        for k in range(starts[s], starts[s] + visitors[s]):
            free[theirs[k]] -= 1
            visits[free[theirs[k]]] = at
        at += 1
        sequence_starts[at] = filled
    return (
        indptr,
        items[:n].copy(),
        ends,
        sequence_starts,
        sequence,
        in_order,
        their_visits,
        visits,
    )
