"""Popularity: how much, how lately, since when and in what sessions items are touched."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recsys.interactions import Sequences

# Shares of the log's end over which recent popularity is counted.
RECENT, LATE = 0.02, 0.1


# What is known of an item by itself, column by column of `Popularity.signs`.
POPULARITY, LATE_POPULARITY, RECENT_POPULARITY, RISE, AGE, FRESHNESS = SIGNS = range(6)
# And of the sessions that it is in, column by column of `Popularity.kinds`.
STRANGERS_SHARE, LATE_WITH_STRANGERS, LATE_IN_LONG, USUAL_LENGTH, LATEST_POPULARITY = KINDS = range(
    5
)

LATEST = 30  # exponent over the share of events after, of the latest popularity
PRIOR = 5  # events as of any item, that a mean of few is drawn to


@dataclass(frozen=True)
class Popularity:
    """What is known of items without a visitor.

    counts: float32 [items], summed event weights, descending: row order is popularity order.
    recent: float32 [items], events in the last 2 % of the log. recent_order: int32 [items], rows by
    that. signs: float32 [items, SIGNS]: log(1 + x) of counts and of events in the last 10 % and 2 %
    of the log; the last less the first of these; where the item's first and latest session stand in
    the log, 0 (its start) to 1 (its end). kinds: float32 [items, KINDS]: the share of its events
    that are of strangers; log(1 + x) of these in the last 10 % of the log and of those there that
    are in sessions longer than those of half of the events; the mean logarithm of the lengths of
    its sessions; log(1 + x) of its events weighted by exp(-LATEST * share of the log after them).
    """

    counts: NDArray[np.float32]
    recent: NDArray[np.float32]
    recent_order: NDArray[np.int32]
    signs: NDArray[np.float32]
    kinds: NDArray[np.float32]


def fit(
    sequences: Sequences, strangers: NDArray[np.bool_], counts: NDArray[np.float32]
) -> Popularity:
    """Count a log. strangers: bool [sessions]. counts: float32 [items], summed event weights."""
    items, rows = len(counts), sequences.items
    lengths = np.diff(sequences.indptr)
    moment = (np.repeat(np.arange(len(lengths)), lengths) / max(1, len(lengths) - 1)).astype("f4")
    first, last = np.ones(items, dtype=np.float32), np.zeros(items, dtype=np.float32)
    np.minimum.at(first, rows, moment)
    np.maximum.at(last, rows, moment)
    recent, late = (
        np.bincount(rows[int(len(rows) * (1 - share)) :], minlength=items).astype(np.float32)
        for share in (RECENT, LATE)
    )
    logs = [np.log1p(x) for x in (counts, late, recent)]
    signs = np.stack([*logs, logs[2] - logs[0], first, last], axis=1)
    order = np.lexsort((np.arange(items), -recent)).astype(np.int32)
    kinds = _kinds(sequences, strangers, items)
    return Popularity(counts, recent, order, signs.astype(np.float32), kinds)


def _kinds(sequences: Sequences, strangers: NDArray[np.bool_], items: int) -> NDArray[np.float32]:
    rows, lengths = sequences.items, np.diff(sequences.indptr)
    of_stranger, length = np.repeat(strangers, lengths), np.repeat(lengths, lengths)
    after = 1 - (np.arange(len(rows)) + 1) / len(rows)
    late, long = after < LATE, length > np.median(length)

    def total(values: NDArray[np.generic]) -> NDArray[np.float64]:
        return np.bincount(rows, values, minlength=items).astype(np.float64)

    def mean(values: NDArray[np.floating]) -> NDArray[np.float64]:
        events = total(np.ones(len(rows))) + PRIOR
        return (total(values) + PRIOR * float(values.mean())) / events

    kinds = (
        mean(of_stranger.astype(np.float64)),
        np.log1p(total(late & of_stranger)),
        np.log1p(total(late & long)),
        mean(np.log(length)),
        np.log1p(total(np.exp(-LATEST * after))),
    )
    return np.stack(kinds, axis=1).astype(np.float32)
