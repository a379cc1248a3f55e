"""Columns: the features that are computed for all candidates at once, in compiled code."""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from recsys.index import inner_products
from recsys.models import continuations
from recsys.models.popularity import POPULARITY
from recsys.models.tally import capacity, slot

Rows = NDArray[np.int32]
Floats = NDArray[np.float32]
Longs = NDArray[np.int64]

LOOK_BACK = 6  # last items of the session that candidates are compared with
NEVER = 50.0  # events since an item was touched, where it was not


def numbered(*names: str) -> dict[str, int]:
    """The place of each name."""
    return {name: k for k, name in enumerate(names)}


# Features that are computed for all candidates at once, in the order of `columns_of`.
COLUMN = numbered(
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


@njit(cache=True, nogil=True)
def columns_of(
    rows: Rows,
    sequence: Rows,
    distinct: int,
    vectors: Floats,
    taste: Floats,
    firsts: Longs,
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
    cosines(columns[0:4], vectors, rows, recent, taste)
    _links(columns[4:7], firsts, neighbours, shares, recent, keys, at)
    if len(sequence):
        continuations.count(
            columns[7:13], trail, starts, places, sequence, rows, keys, at, context, decay
        )
    touched(columns[13:18], rows, sequence)
    for n in range(len(rows)):
        for sign in range(signs.shape[1]):
            columns[18 + sign, n] = signs[rows[n], sign]
    if len(sequence):
        _shape(columns[24:30], sequence, distinct)
        columns[30] = signs[sequence[0], POPULARITY]
    return columns


@njit(cache=True, nogil=True)
def slots(rows: Rows) -> tuple[Rows, Rows]:
    """Where each row stands among rows, by `slot`: keys, and the places of what they hold."""
    # Roomy: most of what is looked up is not there, and is known not to be at the first look.
    keys = np.full(capacity(4 * len(rows)), -1, np.int32)
    at = np.empty(len(keys), np.int32)
    for n in range(len(rows)):
        found = slot(keys, rows[n])
        keys[found] = rows[n]
        at[found] = n
    return keys, at


@njit(cache=True, nogil=True, fastmath=True)
def cosines(out: Floats, vectors: Floats, rows: Rows, recent: Rows, taste: Floats) -> None:
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
    # First, and by itself: the rows lie apart in memory, which brings several of them at the same
    # time to a loop that does so little with each.
    out[0] = inner_products(vectors, rows, taste)
    for n in range(len(rows)):
        own = vectors[rows[n]]
        for place in range(len(recent)):
            product = np.float32(0)
            for j in range(len(own)):
                product += own[j] * against[place, j]
            if place < 2:
                out[1 + place, n] = product
            out[3, n] = max(out[3, n], product)


@njit(cache=True, nogil=True)
def _links(
    out: Floats,
    firsts: Longs,
    neighbours: Rows,
    shares: Floats,
    recent: Rows,
    keys: Rows,
    at: Rows,
) -> None:
    """Share last -> row, second last -> row, and how many recent items lead to row.

    keys, at: of `slots`.
    """
    for place in range(len(recent)):
        for j in range(firsts[recent[place]], firsts[recent[place] + 1]):
            near = neighbours[j]
            found = slot(keys, near)
            if keys[found] == near:
                out[2, at[found]] += 1
                if place < 2:
                    out[place, at[found]] = shares[j]


@njit(cache=True, nogil=True)
def touched(out: Floats, rows: Rows, sequence: Rows) -> None:
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


@njit(cache=True, nogil=True)
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
