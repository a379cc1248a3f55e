"""Popularity: how much, how lately and since when items are touched."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recsys.interactions import Sequences

# Shares of the log's end over which recent popularity is counted.
RECENT, LATE = 0.02, 0.1


# What is known of an item by itself, column by column of `Popularity.signs`.
POPULARITY, LATE_POPULARITY, RECENT_POPULARITY, RISE, AGE, FRESHNESS = SIGNS = range(6)


@dataclass(frozen=True)
class Popularity:
    """What is known of items without a visitor.

    counts: float32 [items], summed event weights, descending: row order is popularity order.
    recent: float32 [items], events in the last 2 % of the log. recent_order: int32 [items], rows by
    that. signs: float32 [items, SIGNS]: log(1 + x) of counts and of events in the last 10 % and 2 %
    of the log; the last less the first of these; where the item's first and latest session stand in
    the log, 0 (its start) to 1 (its end).
    """

    counts: NDArray[np.float32]
    recent: NDArray[np.float32]
    recent_order: NDArray[np.int32]
    signs: NDArray[np.float32]


def fit(sequences: Sequences, counts: NDArray[np.float32]) -> Popularity:
    """Count a log. counts: float32 [items], summed event weights."""
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
    return Popularity(counts, recent, order, signs.astype(np.float32))
