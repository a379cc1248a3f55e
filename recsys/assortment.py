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

NO_LEVEL = -20.0  # what the forest is told where one of two prices is not known


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
    found = dict[str, Floats | float]()
    names, terms = bundle.facts.features, bundle.terms
    if "category_share" in names:
        found["category_share"] = (
            0.0 if beyond else _shared(rows, who.sequence, terms.starts, terms.categories)
        )
    if "price_level" in names:
        usual = np.full(len(rows), np.nan) if beyond else terms.prices[rows]
        now = _prices_now(bundle, who, rows, usual, beyond)
        found["price_level"] = _levels(now, _session_price(bundle, who))
        if "price_change" in names:
            found["price_change"] = _levels(now, usual, 0.0)
    return found


def highest(
    bundle: Bundle, state: Aggregates, aggregate: Aggregate, rows: Rows, none: float
) -> Floats:
    """The highest value of an aggregate over the categories of rows, float32 [rows].

    none: what stands for no value.
    """
    terms = bundle.terms
    ends, categories = _categories_of(rows, terms.starts, terms.categories)
    numbers = state.aligned(bundle.categories, "category").numbers[categories]
    nothing = state.values(aggregate, np.array([-1], np.int32))
    values = np.nan_to_num(np.concatenate([state.values(aggregate, numbers), nothing]), nan=none)
    return _highest(ends, values)


def _prices_now(bundle: Bundle, who: Profile, rows: Rows, usual: Doubles, beyond: bool) -> Doubles:
    """What rows cost at their latest event, as far as somebody keeps that, else usually."""
    aggregate, state = price_now(bundle.config), who.session.aggregates
    if aggregate is None or state is None:
        return usual
    numbers = rows if beyond else state.aligned(bundle.items).numbers[rows]
    told = state.values(aggregate, numbers)
    return np.where(np.isnan(told), usual, told)


def _session_price(bundle: Bundle, who: Profile) -> float:
    """The geometric mean of what the session's items cost as they were touched; NaN where nothing
    is known. Where an event tells no price it is the item's usual one."""
    told = np.array(who.session.current.prices, np.float64)
    prices = np.concatenate([np.full(len(who.trail) - len(told), np.nan), told])
    lacking = np.flatnonzero(np.isnan(prices))
    if len(lacking):
        rows = bundle.items.rows([who.trail[k] for k in lacking.tolist()])
        prices[lacking[rows >= 0]] = bundle.terms.prices[rows[rows >= 0]]
    prices = prices[prices > 0]
    return float(np.exp(np.log(prices).mean())) if len(prices) else np.nan


def _levels(prices: Doubles, beside: Doubles | float, unknown: float = NO_LEVEL) -> Floats:
    """The logarithms of prices over others, float32; one of nothing is none."""
    known = (prices > 0) & (np.asarray(beside) > 0)
    levels = np.log(np.where(known, prices, 1.0) / np.where(known, beside, 1.0))
    return np.where(known, levels, unknown).astype(np.float32)


@njit(cache=True, nogil=True)
def _shared(rows: Rows, sequence: Rows, starts: Longs, categories: Rows) -> Floats:
    """Share of the events of a sequence whose item is in a category of each row."""
    count = 0
    for event in range(len(sequence)):
        count += starts[sequence[event] + 1] - starts[sequence[event]]
    labels, events = np.empty(count, np.int32), np.empty(count, np.int32)
    n = 0
    for event in range(len(sequence)):
        for at in range(starts[sequence[event]], starts[sequence[event] + 1]):
            labels[n], events[n] = categories[at], event
            n += 1
    order = np.argsort(labels, kind="mergesort")
    labels, events = labels[order], events[order]
    # Which row has counted an event: one that shares two categories is one.
    counted = np.full(len(sequence), -1, np.int32)
    shares = np.zeros(len(rows), np.float32)
    for k in range(len(rows)):
        for at in range(starts[rows[k]], starts[rows[k] + 1]):
            place = np.searchsorted(labels, categories[at])
            while place < count and labels[place] == categories[at]:
                if counted[events[place]] != k:
                    counted[events[place]] = k
                    shares[k] += 1
                place += 1
        if len(sequence):
            shares[k] /= len(sequence)
    return shares


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
def _highest(ends: Longs, values: Doubles) -> Floats:
    """The highest of each part; the last value where a part is empty."""
    found = np.empty(len(ends), np.float32)
    start = 0
    for k in range(len(ends)):
        best = values[len(values) - 1]
        for at in range(start, ends[k]):
            if at == start or values[at] > best:
                best = values[at]
        found[k] = best
        start = ends[k]
    return found
