"""Snapshot: what a log's aggregates are at its end, for a store that has not seen that log."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recsys.aggregate_log import LogFold, told_to_ranker
from recsys.aggregates import NEVER, Aggregates, Doubles, Longs, Rows, oldest, ranking_by
from recsys.config import Aggregate, Config
from recsys.logs import Log


@dataclass(frozen=True)
class Snapshot:
    """The rows of each aggregate that still count, in the order of the configuration.

    until: float64 [1], Unix seconds of the log's last event; -inf of no log. text: uint8, the ids
    of items, users and categories as UTF-8, concatenated; offsets: int64 [ids + 1] into it. ends:
    int64 [aggregates], of each one's rows. start, end: int32 [rows], the id of a key by its number;
    end is -1 but for pairs. at: int64 [rows + 1], where the cells of each are. cells: float64
    [cells, 2], see `recsys.aggregates.Table`.
    """

    until: Doubles
    text: NDArray[np.uint8]
    offsets: Longs
    ends: Longs
    start: Rows
    end: Rows
    at: Longs
    cells: Doubles

    @property
    def moment(self) -> float:
        return float(self.until[0])

    @property
    def empty(self) -> bool:
        """Whether there are no rows at all: asked at every list."""
        return not len(self.ends) or not self.ends[-1]

    def digest(self, number: int) -> str:
        """The same for the same rows of one aggregate; "" of no log."""
        if self.moment == NEVER:
            return ""
        rows = self._rows(number)
        first, last = self.at[rows.start], self.at[rows.stop]
        parts = (self.until, self.text, self.offsets, self.start[rows], self.end[rows])
        found = hashlib.sha256()
        for part in (*parts, self.at[rows] - first, self.cells[first:last]):
            found.update(np.ascontiguousarray(part).data)
        return found.hexdigest()[:12]

    def count(self, number: int) -> int:
        """How many rows of one aggregate there are."""
        rows = self._rows(number)
        return int(rows.stop - rows.start)

    def rows(self, number: int) -> Iterator[tuple[bytes, bytes]]:
        """Keys and rows of one aggregate as the store has them, see store.lua."""
        text, offsets = self.text.tobytes(), self.offsets.tolist()
        for row in range(self._rows(number).start, self._rows(number).stop):
            cells = self.cells[self.at[row] : self.at[row + 1]].tobytes()
            start, end = int(self.start[row]), int(self.end[row])
            key = text[offsets[start] : offsets[start + 1]]
            if end >= 0:
                key = len(key).to_bytes(2, "big") + key + text[offsets[end] : offsets[end + 1]]
            yield key, cells

    def put_into(self, state: Aggregates, number: int, aggregate: Aggregate) -> None:
        """Have an aggregate of a state begin with its rows."""
        rows = self._rows(number)
        if rows.start == rows.stop:
            return
        text, offsets = self.text.tobytes(), self.offsets.tolist()
        key = "item" if aggregate.key == "pair" else aggregate.key

        def numbers(ids: Rows) -> Rows:
            names = (text[offsets[k] : offsets[k + 1]].decode() for k in ids.tolist())
            return np.array([state.number(key, name) for name in names], np.int32)

        places = numbers(self.start[rows])
        if aggregate.key == "pair":
            places = state.steps[aggregate.name].link_all(places, numbers(self.end[rows]))
        table = state.tables[aggregate.name]
        table.reserve(int(places.max()) + 1)
        cells = self.cells[self.at[rows.start] : self.at[rows.stop]].reshape(-1, table.cells, 2)
        table.first[places], table.second[places] = cells[..., 0], cells[..., 1]

    def _rows(self, number: int) -> slice:
        if number >= len(self.ends):
            return slice(0, 0)
        return slice(int(self.ends[number - 1]) if number else 0, int(self.ends[number]))


def taken(state: Aggregates) -> Snapshot:
    """What counts of a state, at its moment or later. What is kept for sessions is left out: those
    of a log are over."""
    names, offset = list[str](), {"pair": 0}
    for key in ("item", "user", "category"):
        offset[key] = len(names)
        names += state.names[key]
    starts, targets, cells, ends = [], [], [], [0]
    for aggregate in state.declared:
        rows, start, end = _keys(state, aggregate)
        table = state.tables[aggregate.name]
        least = max(oldest(aggregate, state.moment), np.finfo(np.float64).min)
        kept = (table.second[rows] >= least).any(axis=1)
        rows = rows[kept]
        starts.append(start[kept] + offset.get(aggregate.key, 0))
        targets.append(end[kept])
        cells.append(np.stack([table.first[rows], table.second[rows]], axis=2))
        ends.append(ends[-1] + len(rows))
    encoded = [name.encode() for name in names]
    lengths = np.repeat([part.shape[1] for part in cells], np.diff(ends))
    return Snapshot(
        until=np.array([state.moment]),
        text=np.frombuffer(b"".join(encoded), dtype=np.uint8),
        offsets=_bounds(list(map(len, encoded))),
        ends=np.array(ends[1:], dtype=np.int64),
        start=np.concatenate([np.zeros(0, np.int32), *starts]).astype(np.int32),
        end=np.concatenate([np.zeros(0, np.int32), *targets]).astype(np.int32),
        at=_bounds(lengths),
        cells=np.concatenate([np.zeros((0, 2)), *(part.reshape(-1, 2) for part in cells)]),
    )


def told_after(base: Snapshot, config: Config, frame: pl.DataFrame) -> LogFold | None:
    """As `recsys.aggregate_log.told_to_ranker`, over what a store is told that begins with a
    snapshot."""
    fold = told_to_ranker(config, frame)
    if fold:
        _put(base, config, fold.state)
    return fold


def state_of(base: Snapshot, config: Config) -> Aggregates:
    """What a ranker is told where nothing came since."""
    state = Aggregates(ranking_by(config))
    _put(base, config, state)
    return state


def _put(base: Snapshot, config: Config, state: Aggregates) -> None:
    state.moment = base.moment
    for number, aggregate in enumerate(config.aggregate):
        if aggregate.ranking:
            base.put_into(state, number, aggregate)


def _keys(state: Aggregates, aggregate: Aggregate) -> tuple[Rows, Rows, Rows]:
    """The rows of an aggregate's table, and the numbers of what each is of."""
    if aggregate.key == "session":
        nothing = np.zeros(0, np.int32)
        return nothing, nothing, nothing
    table = state.tables[aggregate.name]
    if aggregate.key != "pair":
        rows = np.arange(min(len(state.names[aggregate.key]), len(table.first)), dtype=np.int32)
        return rows, rows, np.full(len(rows), -1, np.int32)
    steps = state.steps[aggregate.name]
    links = [steps.after(start) for start in range(len(state.names["item"]))]
    rows = np.concatenate([np.zeros(0, np.int32), *links])
    start = np.repeat(np.arange(len(links), dtype=np.int32), list(map(len, links)))
    return rows, start, steps.to[rows]


def _bounds(lengths: Sequence[int] | NDArray[np.integer]) -> Longs:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


EMPTY = taken(Aggregates(()))


def of_log(log: Log, config: Config) -> Snapshot:
    """The aggregates of what a log holds from elsewhere; the rest of it the store has seen itself.

    log: with times, else there is nothing. Of the lake's files only what is not later than the
    last event from elsewhere: a log that is exported from the same shop holds it too.
    """
    if log.clock != "time" or log.imported_until == NEVER or not config.aggregate:
        return EMPTY
    fold = LogFold(log.frame, config.aggregate, config.events)
    rows = fold.before(log.imported_until)
    return taken(fold.advance(rows)) if rows else EMPTY
