"""Assortment: what sort of thing candidates are, and what they cost, beside a session's items."""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from recsys.aggregates import Aggregates, ranking_by
from recsys.bundle import Bundle
from recsys.config import Aggregate, Config
from recsys.retrieval import Profile

Rows = NDArray[np.int32]
Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Longs = NDArray[np.int64]

Labels = tuple[Rows, Longs]

BESIDE = ("category_share", "price_level", "price_change")
UNKNOWN = np.array([-1], np.int32)  # the number of a key that nothing is known of
NO_LEVEL = -20.0  # what the ranker is told where one of two prices is not known


def price_now(config: Config) -> Aggregate | None:
    """The aggregate that tells a ranker what items cost now, where one is declared."""
    told = (a for a in ranking_by(config) if (a.key, a.field) == ("item", "price"))
    return next(told, None)


def values_beside(
    bundle: Bundle, who: Profile, rows: Rows, *, beyond: bool = False
) -> dict[str, Floats | float]:
    """The features that a bundle's ranker knows of categories and prices, by name.

    rows: of the bundle; beyond: numbers of items that it does not know, and so no category of.
    """
    names, terms = bundle.facts.features, bundle.terms
    told = [(name, k) for k, name in enumerate(BESIDE) if name in names]
    if not told:
        return {}
    usual = np.full(len(rows), np.nan) if beyond else terms.prices[rows]
    now, then = _prices_now(bundle, who, rows, usual, beyond), _prices_then(bundle, who)
    known = rows[:0] if beyond else rows
    values = _beside(known, who.sequence, terms.starts, terms.categories, now, usual, then)
    return {name: values[k] for name, k in told}


def labels_of(bundle: Bundle, state: Aggregates, rows: Rows) -> Labels:
    """The categories of rows by number, one row after the other, int32, and where each row's end,
    int64 [rows]."""
    terms = bundle.terms
    ends, categories = _categories_of(rows, terms.starts, terms.categories)
    return state.aligned(bundle.categories, "category").numbers[categories], ends


def highest(state: Aggregates, aggregate: Aggregate, labels: Labels, none: float) -> Floats:
    """The highest value of an aggregate over the categories of each row, float32 [rows].

    labels: of :func:`labels_of`. none: what stands for no value.
    """
    numbers, ends = labels
    values, nothing = state.values(aggregate, numbers), state.values(aggregate, UNKNOWN)[0]
    return _highest(values, ends, nothing, none)


def _prices_now(bundle: Bundle, who: Profile, rows: Rows, usual: Doubles, beyond: bool) -> Doubles:
    """What rows cost at their latest event, as far as somebody keeps that, else usually."""
    aggregate, state = price_now(bundle.config), who.session.aggregates
    if aggregate is None or state is None:
        return usual
    numbers = rows if beyond else state.aligned(bundle.items).numbers[rows]
    told = state.values(aggregate, numbers)
    return np.where(np.isnan(told), usual, told)


def _prices_then(bundle: Bundle, who: Profile) -> Doubles:
    """What the session's items cost as they were touched, float64, NaN where that is not known.

    Of an item on the page, and where an event tells no price, the usual one.
    """
    told = who.session.current.prices
    prices = np.full(len(who.trail), np.nan)
    prices[len(prices) - len(told) :] = told
    lacking = np.flatnonzero(np.isnan(prices))
    if len(lacking):
        rows = bundle.items.rows([who.trail[k] for k in lacking.tolist()])
        prices[lacking[rows >= 0]] = bundle.terms.prices[rows[rows >= 0]]
    return prices


@njit(cache=True, nogil=True)
def _beside(
    rows: Rows,
    sequence: Rows,
    starts: Longs,
    categories: Rows,
    now: Doubles,
    usual: Doubles,
    then: Doubles,
) -> Floats:
    """The features of BESIDE, float32 [BESIDE, now]. rows: of the first of these or none, as the
    others are in no category."""
    values = np.zeros((3, len(now)), np.float32)
    _shared(values[0], rows, sequence, starts, categories)
    total, known = 0.0, 0
    for price in then:
        if price > 0:
            total += np.log(price)
            known += 1
    for k in range(len(now)):
        values[1, k] = NO_LEVEL
        if now[k] > 0:
            if known:
                values[1, k] = np.log(now[k]) - total / known
            if usual[k] > 0:
                values[2, k] = np.log(now[k] / usual[k])
    return values


@njit(cache=True, nogil=True)
def _shared(out: Floats, rows: Rows, sequence: Rows, starts: Longs, categories: Rows) -> None:
    """Share of the events of a sequence whose item is in a category of each row."""
    count = 0
    for event in range(len(sequence)):
        count += starts[sequence[event] + 1] - starts[sequence[event]]
    if count == 0:
        return
    labels, events = np.empty(count, np.int32), np.empty(count, np.int32)
    n = 0
    for event in range(len(sequence)):
        for at in range(starts[sequence[event]], starts[sequence[event] + 1]):
            labels[n], events[n] = categories[at], event
            n += 1
    order = np.argsort(labels)
    labels, events = labels[order], events[order]
    # Which row has counted an event: one that shares two categories is one.
    counted = np.full(len(sequence), -1, np.int32)
    for k in range(len(rows)):
        for at in range(starts[rows[k]], starts[rows[k] + 1]):
            place = np.searchsorted(labels, categories[at])
            while place < count and labels[place] == categories[at]:
                if counted[events[place]] != k:
                    counted[events[place]] = k
                    out[k] += 1
                place += 1
        out[k] /= len(sequence)


@njit(cache=True, nogil=True)
def _categories_of(rows: Rows, starts: Longs, categories: Rows) -> tuple[Longs, Rows]:
    """The categories of rows, one row after the other, and where those of each end."""
    ends = np.empty(len(rows), np.int64)
    n = 0
    for k in range(len(rows)):
        n += starts[rows[k] + 1] - starts[rows[k]]
        ends[k] = n
    found = np.empty(n, np.int32)
    n = 0
    for k in range(len(rows)):
        for at in range(starts[rows[k]], starts[rows[k] + 1]):
            found[n] = categories[at]
            n += 1
    return ends, found


@njit(cache=True, nogil=True)
def _highest(values: Doubles, ends: Longs, nothing: float, none: float) -> Floats:
    """The highest of each part; nothing where a part is empty, none for NaN."""
    found = np.empty(len(ends), np.float32)
    start = 0
    for k in range(len(ends)):
        best = nothing if start == ends[k] else values[start]
        for at in range(start + 1, ends[k]):
            if values[at] > best or np.isnan(best):
                best = values[at]
        found[k] = none if np.isnan(best) else best
        start = ends[k]
    return found
