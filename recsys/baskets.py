"""Baskets: the features that see a session as a whole, and the past beside it, in compiled code.

They are of use where the order of a session's events is ignored. Where it is kept the last items
say more, and a click must not wait for them.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from recsys.columns import numbered, slots
from recsys.models import session_knn
from recsys.models.tally import find, room, slot

Rows = NDArray[np.int32]
Floats = NDArray[np.float32]
Longs = NDArray[np.int64]

# In the order of `basket_columns`.
BASKET = numbered(
    "whole_knn",
    "whole_knn_mean",
    "whole_links",
    "whole_knn_highest",
    "whole_votes",
    "whole_cosine",
    "past_knn",
    "past_links",
    "own_weight",
    "own_share",
    "own_place",
    "past_sessions",
    "past_interest",
    "strangers_share",
    "late_with_strangers",
    "late_in_long",
    "usual_length",
    "latest_popularity",
    "own_votes",
    "own_votes_share",
    "own_votes_highest",
    "own_votes_mean",
)
BASKETS = len(BASKET)
VOTERS = 500  # sessions that vote for what goes with the whole of this one ...
VOTE_AGE = 5.0  # ... and the exponent over the share of sessions after them


@njit(cache=True, nogil=True)
def basket_columns(
    rows: Rows,
    live: Rows,
    past: Rows,
    past_weights: Floats,
    history: Rows,
    history_weights: Floats,
    history_sessions: int,
    visits: Rows,
    late_visits: Longs,
    late_items: Rows,
    firsts: Longs,
    neighbours: Rows,
    similarities: Floats,
    vectors: Floats,
    indptr: Longs,
    items: Rows,
    starts: Longs,
    sessions: Rows,
    positions: Rows,
    session_weights: Floats,
    match_weights: Floats,
    kinds: Floats,
) -> Floats:
    """The features of BASKET for rows (ascending), float32 [BASKET, rows].

    live: distinct items of the session. past: of earlier ones. history: of the known user, latest
    first, from so many sessions. visits: of these, the rows of those that vote; late_visits: int64
    [n + 1] into late_items: those that came after them.
    """
    basket = np.zeros((BASKETS, len(rows)), np.float32)
    keys, at = slots(rows)
    if len(live):
        ones = np.ones(len(live), np.float32)
        whole = basket[0:4]
        _near(whole[1:4], firsts, neighbours, similarities, live, ones, keys, at)
        whole[0] = whole[1] / max(whole[1].max(), np.float32(1e-9))
        whole[1:3] /= np.float32(len(live))
        votes = basket[4]
        session_knn.vote(
            votes,
            indptr,
            items,
            starts,
            sessions,
            positions,
            session_weights,
            match_weights,
            live,
            VOTERS,
            VOTE_AGE,
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
    if len(past):
        near = np.zeros((3, len(rows)), np.float32)
        _near(near, firsts, neighbours, similarities, past, past_weights, keys, at)
        basket[6] = near[0] / past_weights.sum()
        basket[7] = near[1] / np.float32(len(past))
    for k in range(len(past)):
        found = slot(keys, past[k])
        if keys[found] == past[k]:
            basket[8, at[found]] = past_weights[k]
    basket[10] = -1
    for place in range(len(history)):
        found = slot(keys, history[place])
        if keys[found] == history[place]:
            basket[9, at[found]] = history_weights[place] / np.float32(history_sessions)
            basket[10, at[found]] = place
    basket[11] = history_sessions
    basket[12] = history_weights.sum()
    for n in range(len(rows)):
        for kind in range(kinds.shape[1]):
            basket[13 + kind, n] = kinds[rows[n], kind]
    own = basket[18:22]
    own_votes(own, rows, live, match_weights, indptr, items, visits, late_visits, late_items)
    return basket


@njit(cache=True, nogil=True)
def own_votes(
    out: Floats,
    rows: Rows,
    live: Rows,
    match_weights: Floats,
    indptr: Longs,
    items: Rows,
    visits: Rows,
    late_visits: Longs,
    late_items: Rows,
) -> None:
    """Votes of the user's own earlier sessions for each row, their share of the most, the highest
    one, and their mean over the sessions that hold the row; float32 [4, rows], zeros before.

    A session votes for all of its items with the summed match_weights of those that it shares with
    live, over the root of how many it holds. visits: rows of indptr. late_visits: of late_items.
    """
    early, late = len(visits), len(late_visits) - 1
    if len(live) == 0 or early + late == 0:
        return
    entries, count = len(live) + len(late_items), len(match_weights)
    for session in visits:
        entries += indptr[session + 1] - indptr[session]
    keys = np.full(room(count, entries), -1, np.int32)
    weights, seen = np.zeros(len(keys), np.float32), np.zeros(len(keys), np.int32)
    found = np.zeros((3, len(keys)), np.float32)  # summed votes, the highest, sessions
    for row in live:
        at = find(keys, row, count)
        keys[at], weights[at] = row, match_weights[row]
    for k in range(early + late):
        if k < early:
            inside = items[indptr[visits[k]] : indptr[visits[k] + 1]]
        else:
            inside = late_items[late_visits[k - early] : late_visits[k - early + 1]]
        shared, held = np.float32(0), 0
        for row in inside:
            at = find(keys, row, count)
            if seen[at] != k + 1:  # else it stands in the session more than once
                keys[at], seen[at] = row, k + 1
                found[2, at] += 1
                shared += weights[at]
                held += 1
        if shared == 0:
            continue
        vote = shared / np.sqrt(np.float32(held))
        for row in inside:
            at = find(keys, row, count)
            if seen[at] == k + 1:
                seen[at] = 0
                found[0, at] += vote
                found[1, at] = max(found[1, at], vote)
    for n in range(len(rows)):
        at = find(keys, rows[n], count)
        if keys[at] == rows[n] and found[2, at]:
            out[0, n], out[2, n] = found[0, at], found[1, at]
            out[3, n] = found[0, at] / found[2, at]
    out[1] = out[0] / max(out[0].max(), np.float32(1e-9))


@njit(cache=True, nogil=True)
def _near(
    out: Floats,
    firsts: Longs,
    neighbours: Rows,
    similarities: Floats,
    items: Rows,
    weights: Floats,
    keys: Rows,
    at: Rows,
) -> None:
    """Summed weighted similarities to the items, how many of these are near, and the highest
    similarity, float32 [3, rows], zeros before.

    keys, at: of `slots`.
    """
    for k in range(len(items)):
        for j in range(firsts[items[k]], firsts[items[k] + 1]):
            near = neighbours[j]
            found = slot(keys, near)
            if keys[found] == near:
                similarity = similarities[j]
                out[0, at[found]] += weights[k] * similarity
                out[1, at[found]] += 1
                out[2, at[found]] = max(out[2, at[found]], similarity)
