"""Columns: the features that are computed for all candidates at once, in compiled code."""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from recsys.models import continuations
from recsys.models.popularity import POPULARITY
from recsys.models.tally import best, capacity, slot

Rows = NDArray[np.int32]
Floats = NDArray[np.float32]
Longs = NDArray[np.int64]

LOOK_BACK = 6  # last items of the session that candidates are compared with
NEVER = 50.0  # events since an item was touched, where it was not


def _numbered(*names: str) -> dict[str, int]:
    return {name: k for k, name in enumerate(names)}


# Features that are computed for all candidates at once, in the order of `columns_of`.
COLUMN = _numbered(
    "session_cosine",
    "last_cosine",
    "second_cosine",
    "highest_cosine",
    "share_after_last",
    "share_after_second",
    "links_from_session",
    "next_share",
    "next_but_one_share",
    "before_share",
    "alike_next_share",
    "alike_next_but_one_share",
    "alike_next",
    "times_touched",
    "events_since_touched",
    "events_since_first_touched",
    "led_to_last",
    "followed_last",
    "popularity",
    "late_popularity",
    "recent_popularity",
    "rise",
    "age",
    "freshness",
    "events",
    "distinct_items",
    "repeats",
    "late_repeats",
    "run",
    "events_since_last_visit",
    "last_popularity",
)
COLUMNS = len(COLUMN)

# Likewise, of the session as a whole, in the order of `basket_columns`, where the order of its
# events is ignored; where it is kept the last items say more, and a click must not wait for them.
BASKET = _numbered(
    "whole_knn",
    "whole_knn_mean",
    "whole_links",
    "whole_knn_highest",
    "whole_votes",
    "whole_cosine",
    "own_weight",
    "own_place",
)
BASKETS = len(BASKET)
VOTERS = 500  # sessions that vote for what goes with the whole of this one ...
VOTE_AGE = np.float32(5)  # ... and the exponent over the share of sessions after them


@njit(cache=True)
def columns_of(
    rows: Rows,
    sequence: Rows,
    distinct: int,
    vectors: Floats,
    taste: Floats,
    neighbours: Rows,
    shares: Floats,
    trail: Rows,
    starts: Longs,
    places: Rows,
    context: int,
    decay: float,
    signs: Floats,
) -> Floats:
    """The features of COLUMN for rows (ascending), float32 [COLUMN, rows]."""
    columns = np.zeros((COLUMNS, len(rows)), np.float32)
    recent = sequence[:LOOK_BACK]
    keys, at = slots(rows)
    _cosines(columns[0:4], vectors, rows, recent, taste)
    _links(columns[4:7], neighbours, shares, recent, keys, at)
    if len(sequence):
        continuations.count(
            columns[7:13], trail, starts, places, sequence, rows, keys, at, context, decay
        )
    _touched(columns[13:18], rows, sequence)
    for n in range(len(rows)):
        for sign in range(signs.shape[1]):
            columns[18 + sign, n] = signs[rows[n], sign]
    if len(sequence):
        _shape(columns[24:30], sequence, distinct)
        columns[30] = signs[sequence[0], POPULARITY]
    return columns


@njit(cache=True)
def basket_columns(
    rows: Rows,
    live: Rows,
    past: Rows,
    past_weights: Floats,
    history: Rows,
    neighbours: Rows,
    similarities: Floats,
    vectors: Floats,
    indptr: Longs,
    items: Rows,
    starts: Longs,
    sessions: Rows,
    session_weights: Floats,
    match_weights: Floats,
) -> Floats:
    """The features of BASKET for rows (ascending), float32 [BASKET, rows].

    live: distinct items of the session. history: of the known user, latest first.
    """
    basket = np.zeros((BASKETS, len(rows)), np.float32)
    keys, at = slots(rows)
    if len(live):
        _near(basket[0:4], neighbours, similarities, live, keys, at)
        votes = basket[4]
        _vote(
            votes,
            indptr,
            items,
            starts,
            sessions,
            session_weights,
            match_weights,
            live,
            keys,
            at,
        )
        votes /= max(votes.max(), np.float32(1e-9))
        if len(vectors):
            total = np.zeros(vectors.shape[1], np.float32)
            for row in live:
                total += vectors[row]
            for n in range(len(rows)):
                basket[5, n] = np.dot(vectors[rows[n]], total) / np.float32(len(live))
    for k in range(len(past)):
        found = slot(keys, past[k])
        if keys[found] == past[k]:
            basket[6, at[found]] = past_weights[k]
    basket[7] = -1
    for place in range(len(history)):
        found = slot(keys, history[place])
        if keys[found] == history[place]:
            basket[7, at[found]] = place
    return basket


@njit(cache=True)
def _near(
    out: Floats, neighbours: Rows, similarities: Floats, live: Rows, keys: Rows, at: Rows
) -> None:
    """Summed similarities over the highest sum and over the number of items, share of the items
    that are near, and the highest similarity.

    keys, at: of `slots`.
    """
    for item in live:
        for j in range(neighbours.shape[1]):
            near = neighbours[item, j]
            if near < 0:
                break
            found = slot(keys, near)
            if keys[found] == near:
                similarity = similarities[item, j]
                out[1, at[found]] += similarity
                out[2, at[found]] += 1
                out[3, at[found]] = max(out[3, at[found]], similarity)
    out[0] = out[1] / max(out[1].max(), np.float32(1e-9))
    out[1:3] /= np.float32(len(live))


@njit(cache=True)
def _vote(
    out: Floats,
    indptr: Longs,
    items: Rows,
    starts: Longs,
    sessions: Rows,
    session_weights: Floats,
    match_weights: Floats,
    live: Rows,
    keys: Rows,
    at: Rows,
) -> None:
    """Votes of the VOTERS sessions that share most with all of live.

    keys, at: of `slots`.
    """
    total = 0
    for item in live:
        total += starts[item + 1] - starts[item]
    names = np.full(capacity(total), -1, np.int32)
    similarity = np.zeros(len(names), np.float32)
    used = np.empty(total, np.int32)
    n = 0
    for item in live:
        for j in range(starts[item], starts[item + 1]):
            found = slot(names, sessions[j])
            if names[found] == -1:
                names[found] = sessions[j]
                used[n] = found
                n += 1
            similarity[found] += match_weights[item]
    used = used[:n]
    for entry in used:
        session = names[entry]
        late = np.exp(VOTE_AGE * np.float32(session / len(indptr) - 1))
        similarity[entry] *= session_weights[session] * late
    voters, votes = best(used, similarity[used], VOTERS)
    for k in range(len(voters)):
        session = names[voters[k]]
        for p in range(indptr[session], indptr[session + 1]):
            found = slot(keys, items[p])
            if keys[found] == items[p]:
                out[at[found]] += votes[k]


@njit(cache=True)
def slots(rows: Rows) -> tuple[Rows, Rows]:
    """Where each row stands among rows, by `slot`: keys, and the places of what they hold."""
    keys = np.full(capacity(len(rows)), -1, np.int32)
    at = np.empty(len(keys), np.int32)
    for n in range(len(rows)):
        found = slot(keys, rows[n])
        keys[found] = rows[n]
        at[found] = n
    return keys, at


@njit(cache=True, fastmath=True)
def _cosines(out: Floats, vectors: Floats, rows: Rows, recent: Rows, taste: Floats) -> None:
    """Inner products of rows with taste, the last item and the one before, and the highest with
    one of the recent ones; -2 where there is none."""
    out[1:] = -2
    if len(vectors) == 0:
        for place in range(min(2, len(recent))):
            out[1 + place] = out[3] = 0
        return
    against = np.empty((len(recent), vectors.shape[1]), np.float32)
    for place in range(len(recent)):
        against[place] = vectors[recent[place]]
    for n in range(len(rows)):
        own = vectors[rows[n]]
        product = np.float32(0)
        for j in range(len(own)):
            product += own[j] * taste[j]
        out[0, n] = product
        for place in range(len(recent)):
            product = np.float32(0)
            for j in range(len(own)):
                product += own[j] * against[place, j]
            if place < 2:
                out[1 + place, n] = product
            out[3, n] = max(out[3, n], product)


@njit(cache=True)
def _links(
    out: Floats, neighbours: Rows, shares: Floats, recent: Rows, keys: Rows, at: Rows
) -> None:
    """Share last -> row, second last -> row, and how many recent items lead to row.

    keys, at: of `slots`.
    """
    for place in range(len(recent)):
        for j in range(neighbours.shape[1]):
            near = neighbours[recent[place], j]
            if near < 0:
                break
            found = slot(keys, near)
            if keys[found] == near:
                out[2, at[found]] += 1
                if place < 2:
                    out[place, at[found]] = shares[recent[place], j]


@njit(cache=True)
def _touched(out: Floats, rows: Rows, sequence: Rows) -> None:
    """Events of the session on each row, events after the last of them, events from the first on,
    and how often the row came right before and right after an earlier visit of the last item."""
    out[1] = NEVER
    for place in range(len(sequence) - 1, -1, -1):
        at = np.searchsorted(rows, sequence[place])
        if at == len(rows) or rows[at] != sequence[place]:
            continue
        if out[0, at] == 0:
            out[2, at] = place + 1
        out[0, at] += 1
        out[1, at] = place
        if place > 1 and sequence[place - 1] == sequence[0]:
            out[3, at] += 1
        if place < len(sequence) - 1 and sequence[place + 1] == sequence[0]:
            out[4, at] += 1


@njit(cache=True)
def _shape(out: Floats, sequence: Rows, distinct: int) -> None:
    """Events of the session, distinct items, repeats, repeats among the last four events, events on
    the last item in a row, and events since it was touched before (0: never)."""
    last, count = sequence[0], len(sequence)
    late = 0
    for place in range(min(4, count)):
        for earlier in range(place + 1, count):
            if sequence[earlier] == sequence[place]:
                late += 1
                break
    run = 1
    while run < count and sequence[run] == last:
        run += 1
    visit = 0
    for place in range(1, count):
        if sequence[place] == last:
            visit = place
            break
    out[0], out[1], out[2] = count, distinct, count - distinct
    out[3], out[4], out[5] = late, run, visit
