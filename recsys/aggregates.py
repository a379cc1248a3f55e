"""Aggregates: live statistics, what each kind is, and their state for all keys.

An aggregate is a function of the set of accepted events up to a moment: in which order they came
does not matter, nor how often one was delivered. What is kept for items, categories and pairs
leaves out the events of sessions in quarantine. An event counts for each category that its item had
when it was accepted. Of the events of its types, for each key,

``decayed_count``: the sum of 2 ** -(age / half-life), by forward decay (Cormode et al., "Forward
Decay", ICDE 2009): a value and the moment it is of, so a late event is added at its own age. With
``once``, only of the first event of each session in each such time, from 1970 on.
``ratio``: (a + smoothing * prior) / (b + smoothing), with a and b the decayed counts of the events
of ``types`` and of ``of``.
``window_count``: how many lie in the current 24th of the window or in the 23 before.
``unique_sessions``: sessions whose latest event does.
``last_value``: the value, or the price of the item, of the latest event that has one; of several
at a time the highest.
``co_count``: the decayed count of steps from one item to another. A step leads from every event to
every one of the same session at the next time there is, not more than ``gap`` later; it is of the
time it ends. A late event parts the step it comes into.

The moment is that of the latest event of the stream, not the clock: a replay has the values of the
day, and where nothing happens nothing fades.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import orjson
from numba import njit
from numpy.typing import NDArray

from recsys.arrays import longer
from recsys.config import DECAYED, WINDOWED, Aggregate, Config
from recsys.interactions import IdMap

Rows = NDArray[np.int32]
Longs = NDArray[np.int64]
Doubles = NDArray[np.float64]

STEPS = 24  # of a window
TOP = 200  # the highest counts, which are kept in order
NEVER = -np.inf
EXPIRED = 2.0**-34  # what one event is worth when an aggregate is forgotten; see `oldest`
COUNTS = ("decayed_count", "window_count", "unique_sessions")
CELLS = {"ratio": 2, "window_count": STEPS, "unique_sessions": STEPS}  # of a key; others have one


def cells_of(aggregate: Aggregate) -> int:
    """Cells of a key: two doubles each, see `Table`."""
    return CELLS.get(aggregate.kind, 1)


def oldest(aggregate: Aggregate, moment: float) -> float:
    """What the second double of a cell must be for the cell to count at a moment, or later.

    Of what decays, an event is worth EXPIRED by then.
    """
    if aggregate.kind == "last_value":
        return NEVER
    if aggregate.window:
        return float(np.floor(moment / (aggregate.span / STEPS)) - STEPS + 1)
    return moment + aggregate.span * float(np.log2(EXPIRED))


def for_everybody(aggregate: Aggregate) -> bool:
    """Whether it is shown to everybody, not to the visitor alone that it is kept for."""
    return aggregate.key not in ("session", "user")


def definition(
    aggregate: Aggregate, config: Config, base: str = "", since: float = NEVER
) -> dict[str, Any]:
    """What the stream has to know of an aggregate to keep it, as JSON; see store.lua.

    base: digest of the snapshot that it begins with, "" for none. since: the moment of that; what
    the stream brought up to it is in the snapshot. ``id`` is the same for the same statistic,
    whatever it is called and however it is read.
    """
    positive = [name for name, weight in config.events.weights.items() if weight > 0]
    facts = {
        "kind": aggregate.kind,
        "key": aggregate.key,
        "types": dict.fromkeys(sorted(aggregate.types or positive), True),
        "of": dict.fromkeys(sorted(aggregate.of), True),
        "span": aggregate.span,
        "gap": aggregate.gap_seconds,
        # Left out where it is the default, so that what is declared already goes on.
        **({"field": aggregate.field} if aggregate.field != "value" else {}),
        **({"once": aggregate.once_seconds} if aggregate.once else {}),
        **({"base": base, "since": since} if base else {}),
    }
    content = orjson.dumps(facts, option=orjson.OPT_SORT_KEYS)
    digest = hashlib.sha256(content).hexdigest()[:12]
    return {"id": digest, "cells": cells_of(aggregate), **facts}


def defined(found: Mapping[str, Any]) -> Aggregate:
    """The aggregate of a definition, by its id for a name."""
    span = f"{found['span']!r}s"
    return Aggregate(
        f"a{found['id']}",
        found["kind"],
        found["key"],
        types=tuple(found["types"]),
        of=tuple(found["of"]),
        half_life=span if found["kind"] in DECAYED else "",
        window=span if found["kind"] in WINDOWED else "",
        gap=f"{found['gap']!r}s" if found["kind"] == "co_count" else "",
        once=f"{found['once']!r}s" if "once" in found else "",
        field=found.get("field", "value"),
    )


@dataclass
class Table:
    """Rows of cells by key. first, second: float64 [rows, cells].

    Of a count that decays its value and the moment that is of; of one in a window the count and the
    number of the step; of a last value that value and its time. An empty cell has NEVER as second.
    """

    cells: int
    first: Doubles = field(init=False)
    second: Doubles = field(init=False)

    def __post_init__(self) -> None:
        self.first = np.zeros((0, self.cells))
        self.second = np.full((0, self.cells), NEVER)

    def reserve(self, rows: int) -> None:
        """Have that many rows at least."""
        self.first = longer(self.first, rows, 0.0)
        self.second = longer(self.second, rows, NEVER)


@dataclass
class Steps:
    """What follows what: for each item, a chain of the items that were next.

    head: int32 [items], the first link of an item's chain, -1 without. next, to: int32 [links].
    Row k of the table is that of link k.
    """

    head: Rows = field(default_factory=lambda: np.zeros(0, np.int32))
    next: Rows = field(default_factory=lambda: np.zeros(0, np.int32))
    to: Rows = field(default_factory=lambda: np.zeros(0, np.int32))
    links: int = 0

    def link(self, start: int, end: int) -> int:
        """The row of a step, made where there is none."""
        return int(self.link_all(np.array([start], np.int32), np.array([end], np.int32))[0])

    def link_all(self, starts: Rows, ends: Rows) -> Rows:
        """The same for many steps, int32."""
        if not len(starts):
            return np.zeros(0, np.int32)
        self._reserve(int(max(starts.max(), ends.max())) + 1, len(starts))
        rows, self.links = _linked(self.head, self.next, self.to, self.links, starts, ends)
        return rows

    def after(self, start: int) -> Rows:
        """Rows of the steps from an item."""
        if not 0 <= start < len(self.head):
            return np.zeros(0, np.int32)
        return _chain(self.head, self.next, start)

    def _reserve(self, items: int, links: int) -> None:
        self.head = longer(self.head, items, -1)
        self.next = longer(self.next, self.links + links, -1)
        self.to = longer(self.to, self.links + links, -1)


@dataclass
class Aligned:
    """Items by number beside the rows of a bundle. numbers: int32 [rows], -1 without events. rows:
    int32 [numbers], -1 where the bundle does not know the item. others: int32 [numbers], the number
    itself there, -1 elsewhere; unknown: of how many items."""

    items: IdMap
    numbers: Rows = field(init=False)
    rows: Rows = field(default_factory=lambda: np.zeros(0, np.int32))
    others: Rows = field(default_factory=lambda: np.zeros(0, np.int32))
    unknown: int = 0
    _taken: int = 0

    def __post_init__(self) -> None:
        self.numbers = np.full(len(self.items), -1, np.int32)

    def take_in(self, names: list[str]) -> None:
        """Items that are new since the last time. names: of all items, by number."""
        if len(names) == self._taken:
            return
        rows = self.items.rows(names[self._taken :])
        self.rows = longer(self.rows, len(names), -1)
        self.rows[self._taken : len(names)] = rows
        known = np.flatnonzero(rows >= 0)
        self.numbers[rows[known]] = (known + self._taken).astype(np.int32)
        other = (np.flatnonzero(rows < 0) + self._taken).astype(np.int32)
        self.others = longer(self.others, len(names), -1)
        self.others[other] = other
        self.unknown += len(other)
        self._taken = len(names)


@dataclass
class Aggregates:
    """The state of declared aggregates for all keys.

    numbers: a number for each item, user, session or category, by its id; names: the ids in that
    order. moment: of the latest event.
    """

    declared: tuple[Aggregate, ...]
    numbers: dict[str, dict[str, int]] = field(init=False)
    names: dict[str, list[str]] = field(init=False)
    tables: dict[str, Table] = field(init=False)
    steps: dict[str, Steps] = field(init=False)
    moment: float = NEVER
    _aligned: "dict[str, Aligned]" = field(default_factory=dict)
    _tops: dict[str, Rows] = field(default_factory=dict)
    _touched: dict[str, list[Rows]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.numbers = {"item": {}, "user": {}, "session": {}, "category": {}}
        self.names = {"item": [], "user": [], "session": [], "category": []}
        self.tables = {a.name: Table(cells_of(a)) for a in self.declared}
        self.steps = {a.name: Steps() for a in self.declared if a.key == "pair"}

    def number(self, key: str, name: str) -> int:
        """The number of an item, user, session or category; a new one for a new name."""
        known = self.numbers[key]
        number = known.setdefault(name, len(known))
        if number == len(self.names[key]):
            self.names[key].append(name)
        return number

    def numbers_of(self, item_ids: Sequence[str]) -> Rows:
        """The numbers of items, int32, -1 for those without events."""
        known = self.numbers["item"]
        return np.array([known.get(item, -1) for item in item_ids], np.int32)

    def heard_of(self, numbers: Rows) -> NDArray[np.bool_]:
        """Which items by number still count for something, bool."""
        heard = np.zeros(len(numbers), dtype=np.bool_)
        for aggregate in self.declared:
            if aggregate.key == "item" and aggregate.kind in COUNTS:
                heard |= self.values(aggregate, numbers) > EXPIRED
        return heard

    def goes_on(self, aggregate: Aggregate, numbers: Rows) -> bool:
        """Whether a step from one of these items still counts."""
        return any(
            bool((self.steps_from(aggregate, number)[1] > EXPIRED).any())
            for number in numbers.tolist()
        )

    def aligned(self, items: IdMap, key: str = "item") -> "Aligned":
        """The numbers of the items in a bundle's rows, for all items there are by now; of
        categories likewise."""
        known = self._aligned.get(key)
        if known is None or known.items is not items:
            known = self._aligned[key] = Aligned(items)
        known.take_in(self.names[key])
        return known

    def values(self, aggregate: Aggregate, numbers: Rows) -> Doubles:
        """Values for keys by number, float64; -1 stands for one that nothing is known of."""
        table = self.tables[aggregate.name]
        return read(aggregate, table.first, table.second, self.moment, numbers)

    def steps_from(self, aggregate: Aggregate, start: int) -> tuple[Rows, Doubles]:
        """Items by number that came after one, and the values of those steps."""
        rows = self.steps[aggregate.name].after(start)
        return self.steps[aggregate.name].to[rows], self.values(aggregate, rows)

    def steps_to(
        self, aggregate: Aggregate, start: int, row_of: Rows, rows: Rows
    ) -> tuple[Doubles, float]:
        """Values of the steps from an item by number to rows, ascending, float64; and of all steps
        from it together. row_of: int32 [numbers], which item is which row, -1 for none."""
        return _steps_to(
            *self._links(aggregate),
            start,
            row_of,
            rows,
            self.moment,
            aggregate.span,
        )

    def _links(self, aggregate: Aggregate) -> tuple[Rows, Rows, Rows, Doubles, Doubles]:
        """The chains of steps and their cells, as compiled code takes them."""
        steps, table = self.steps[aggregate.name], self.tables[aggregate.name]
        return steps.head, steps.next, steps.to, table.first, table.second

    def changed(self, aggregate: Aggregate, rows: Rows) -> None:
        """Say that these rows of a table are others now."""
        if aggregate.name in self._tops:
            self._touched[aggregate.name].append(rows)

    def top(self, aggregate: Aggregate, k: int) -> tuple[Rows, Doubles]:
        """The k items of the highest values of a decayed_count, by number, and these; k <= TOP.

        As all counts fade alike, one overtakes another only when it grows: besides those that were
        highest, only rows that changed since are looked at.
        """
        name = aggregate.name
        if name in self._tops:
            numbers = np.unique(np.concatenate([self._tops[name], *self._touched[name]]))
        else:
            numbers = np.arange(len(self.names["item"]), dtype=np.int32)
        values = self.values(aggregate, numbers)
        best = np.lexsort((numbers, -values))[:TOP]
        self._tops[name], self._touched[name] = numbers[best], []
        best = best[:k]
        best = best[values[best] > 0]
        return numbers[best], values[best]

    def shares_after(
        self, aggregate: Aggregate, recent: Rows, decay: float, row_of: Rows
    ) -> tuple[Rows, NDArray[np.float32]]:
        """What came after some items by number, newest first: rows, ascending, and of each the
        share of the steps from an item that led there, summed, older items less by ``decay``.

        row_of: int32 [numbers], which item is which row, -1 for none.
        """
        return _shares_after(
            *self._links(aggregate),
            recent,
            row_of,
            self.moment,
            aggregate.span,
            decay,
        )

    def folded(
        self, aggregate: Aggregate, numbers: Rows, row_of: Rows, vectors: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """What came after each of some items by number as a unit vector, float32 [numbers, d]: the
        mean of their vectors by the values of the steps; zero where there are none.

        row_of: int32 [numbers], which item has which of the vectors, -1 for none.
        """
        return _folded(
            *self._links(aggregate),
            numbers,
            row_of,
            vectors,
            self.moment,
            aggregate.span,
        )

    def own(self, session_id: str | None, user_id: str | None) -> dict[str, float]:
        """By name, the values for a visitor of what is kept for sessions and for users."""
        ids = {"session": session_id, "user": user_id}
        values = {}
        for aggregate in self.declared:
            if aggregate.key in ids:
                number = self.numbers[aggregate.key].get(ids[aggregate.key] or "", -1)
                values[aggregate.name] = float(
                    self.values(aggregate, np.array([number], np.int32))[0]
                )
        return values

    def named(self, aggregate: Aggregate) -> Iterator[tuple[str | tuple[str, str], float]]:
        """Every key that has a state, with its value: names, of a pair two."""
        key = "item" if aggregate.key == "pair" else aggregate.key
        names = self.names[key]
        if aggregate.key != "pair":
            values = self.values(aggregate, np.arange(len(names), dtype=np.int32))
            table = self.tables[aggregate.name]
            told = np.isfinite(table.second[: len(names)]).any(axis=1)
            yield from ((names[k], float(values[k])) for k in np.flatnonzero(told).tolist())
            return
        for start, name in enumerate(names):
            to, values = self.steps_from(aggregate, start)
            pairs = zip(to.tolist(), values.tolist(), strict=True)
            yield from (((name, names[end]), value) for end, value in pairs)


def read(
    aggregate: Aggregate, first: Doubles, second: Doubles, moment: float, rows: Rows
) -> Doubles:
    """The values that some rows of cells, [all rows, cells], have at a moment, float64 [rows].

    A row that is not there is of a key that nothing is known of.
    """
    if aggregate.kind == "last_value":
        return _last(first, second, rows)
    if aggregate.window:
        return _in_window(first, second, rows, np.floor(moment / (aggregate.span / STEPS)))
    if aggregate.kind == "ratio":
        above, below = (
            _faded(first, second, rows, cell, moment, aggregate.span) for cell in (0, 1)
        )
        of = below + aggregate.smoothing
        ratio: Doubles = np.full(len(of), aggregate.prior)
        above += aggregate.smoothing * aggregate.prior
        return np.divide(above, of, out=ratio, where=of > 0)
    return _faded(first, second, rows, 0, moment, aggregate.span)


def risen(state: Aggregates, numbers: Rows, known: Mapping[str, Doubles] | None = None) -> Doubles:
    """How far ``trending`` lies above what ``usual`` lets expect of items by number, float64.

    Both are decayed counts; of a steady stream the one is the other by their half-lives. In
    standard deviations of a Poisson count: (x - e) / sqrt(e + 1). Without the two, zeros. known: by
    name, values of these items that were read already.
    """
    counts = {a.name: a for a in state.declared if (a.kind, a.key) == ("decayed_count", "item")}
    if not {"trending", "usual"} <= counts.keys():
        return np.zeros(len(numbers))
    now, usual = (
        known[name] if known else state.values(counts[name], numbers)
        for name in ("trending", "usual")
    )
    return _above(now, usual, counts["trending"].span / counts["usual"].span)


def risen_categories(state: Aggregates) -> tuple[list[str], Doubles] | None:
    """Categories that count for something, and how far they rise, float64; ``None`` where no
    decayed count is kept for them.

    The shortest half-life against the longest of the same types and ``once``, as in :func:`risen`;
    the count itself where there is but one.
    """
    counts = [a for a in state.declared if (a.kind, a.key) == ("decayed_count", "category")]
    if not counts:
        return None
    short = min(counts, key=lambda count: count.span)
    alike = (c for c in counts if (set(c.types), c.once) == (set(short.types), short.once))
    long = max(alike, key=lambda count: count.span)
    numbers = np.arange(len(state.names["category"]), dtype=np.int32)
    now, usual = (state.values(count, numbers) for count in (short, long))
    scores = _above(now, usual, short.span / long.span) if long.span > short.span else now
    heard = np.flatnonzero(usual > EXPIRED)
    return [state.names["category"][k] for k in heard.tolist()], scores[heard]


def _above(now: Doubles, usual: Doubles, share: float) -> Doubles:
    expected = usual * share
    above: Doubles = (now - expected) / np.sqrt(expected + 1.0)
    return above


def ranking_by(config: Config) -> tuple[Aggregate, ...]:
    """The aggregates that a configuration's ranker is told of."""
    return tuple(aggregate for aggregate in config.aggregate if aggregate.ranking)


@njit(cache=True, nogil=True)
def _worth(age: float, span: float) -> float:
    """Of an event by its age. One that is ahead of the moment counts as one of now."""
    return float(2.0 ** (-max(age, 0.0) / span))


@njit(cache=True, nogil=True)
def _faded(
    first: Doubles, second: Doubles, rows: Rows, cell: int, moment: float, span: float
) -> Doubles:
    values = np.zeros(len(rows))
    for k in range(len(rows)):
        row = rows[k]
        if 0 <= row < len(first) and second[row, cell] > NEVER:
            values[k] = first[row, cell] * _worth(moment - second[row, cell], span)
    return values


@njit(cache=True, nogil=True)
def _in_window(first: Doubles, second: Doubles, rows: Rows, now: float) -> Doubles:
    values = np.zeros(len(rows))
    for k in range(len(rows)):
        if 0 <= rows[k] < len(first):
            for cell in range(first.shape[1]):
                if now - STEPS < second[rows[k], cell] <= now:
                    values[k] += first[rows[k], cell]
    return values


@njit(cache=True, nogil=True)
def _last(first: Doubles, second: Doubles, rows: Rows) -> Doubles:
    values = np.full(len(rows), np.nan)
    for k in range(len(rows)):
        if 0 <= rows[k] < len(first) and second[rows[k], 0] > NEVER:
            values[k] = first[rows[k], 0]
    return values


@njit(cache=True, nogil=True)
def _steps_to(
    head: Rows,
    following: Rows,
    to: Rows,
    first: Doubles,
    second: Doubles,
    start: int,
    row_of: Rows,
    rows: Rows,
    moment: float,
    span: float,
) -> tuple[Doubles, float]:
    values, total = np.zeros(len(rows)), 0.0
    link = head[start] if 0 <= start < len(head) else -1
    while link >= 0:
        if second[link, 0] > NEVER:
            value = first[link, 0] * _worth(moment - second[link, 0], span)
            total += value
            row = row_of[to[link]]
            at = np.searchsorted(rows, row)
            if row >= 0 and at < len(rows) and rows[at] == row:
                values[at] = value
        link = following[link]
    return values, total


@njit(cache=True, nogil=True)
def _shares_after(
    head: Rows,
    following: Rows,
    to: Rows,
    first: Doubles,
    second: Doubles,
    starts: Rows,
    row_of: Rows,
    moment: float,
    span: float,
    decay: float,
) -> tuple[Rows, NDArray[np.float32]]:
    count = 0
    for start in starts:
        link = head[start] if 0 <= start < len(head) else -1
        while link >= 0:
            count += 1
            link = following[link]
    rows, values = np.empty(count, np.int32), np.empty(count)
    n, weight = 0, 1.0
    for start in starts:
        begin, total = n, 1.0  # so that a single step is not all there is
        link = head[start] if 0 <= start < len(head) else -1
        while link >= 0:
            if second[link, 0] > NEVER:
                value = first[link, 0] * _worth(moment - second[link, 0], span)
                total += value
                if value > EXPIRED and row_of[to[link]] >= 0:
                    rows[n], values[n] = row_of[to[link]], value
                    n += 1
            link = following[link]
        values[begin:n] *= weight / total
        weight *= decay
    order = np.argsort(rows[:n], kind="mergesort")
    found, shares = np.empty(n, np.int32), np.zeros(n, np.float32)
    last = -1
    for k in order:
        if last < 0 or found[last] != rows[k]:
            last += 1
            found[last] = rows[k]
        shares[last] += np.float32(values[k])
    return found[: last + 1], shares[: last + 1]


@njit(cache=True, nogil=True)
def _folded(
    head: Rows,
    following: Rows,
    to: Rows,
    first: Doubles,
    second: Doubles,
    numbers: Rows,
    row_of: Rows,
    vectors: NDArray[np.float32],
    moment: float,
    span: float,
) -> NDArray[np.float32]:
    found = np.zeros((len(numbers), vectors.shape[1]), np.float32)
    if len(vectors) == 0:
        return found
    total = np.zeros(vectors.shape[1])
    for k in range(len(numbers)):
        total[:] = 0
        link = head[numbers[k]] if 0 <= numbers[k] < len(head) else -1
        while link >= 0:
            row = row_of[to[link]]
            if row >= 0 and second[link, 0] > NEVER:
                value = first[link, 0] * _worth(moment - second[link, 0], span)
                if value > EXPIRED:
                    for j in range(len(total)):
                        total[j] += value * vectors[row, j]
            link = following[link]
        length = np.sqrt((total * total).sum())
        if length > 0:
            for j in range(len(total)):
                found[k, j] = total[j] / length
    return found


@njit(cache=True, nogil=True)
def _linked(
    head: Rows, following: Rows, to: Rows, links: int, starts: Rows, ends: Rows
) -> tuple[Rows, int]:
    """The link of each step, new ones after the others; and how many there are then."""
    rows = np.empty(len(starts), np.int32)
    for k in range(len(starts)):
        start, end = starts[k], ends[k]
        at = head[start]
        while at >= 0 and to[at] != end:
            at = following[at]
        if at < 0:
            at = links
            to[at], following[at], head[start] = end, head[start], at
            links += 1
        rows[k] = at
    return rows, links


@njit(cache=True, nogil=True)
def _chain(head: Rows, following: Rows, start: int) -> Rows:
    count, at = 0, head[start]
    while at >= 0:
        count += 1
        at = following[at]
    rows = np.empty(count, np.int32)
    at = head[start]
    for k in range(count):
        rows[k] = at
        at = following[at]
    return rows
