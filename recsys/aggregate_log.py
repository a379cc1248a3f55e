"""Aggregates over a log: the batch executor, point in time.

The stream's executor is in store.lua. Both are made from one declaration and give the same values.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import polars as pl
from numba import njit

from recsys.aggregates import NEVER, STEPS, Aggregates, Doubles, Longs, Rows, Table, ranking_by
from recsys.config import Aggregate, Config, EventsConfig


@dataclass
class _Updates:
    """What the rows of a log change in one table, in their order.

    rows: int64, of the log. keys: int32, rows of the table. cells: int32. moments: what is compared
    with the second double of a cell: a time, or a step of a window. amounts: what is added, or set.
    """

    rows: Longs
    keys: Rows
    cells: Rows
    moments: Doubles
    amounts: Doubles
    done: int = 0


class LogFold:
    """Aggregates of a log as they were after each of its rows.

    state: as of the rows told so far, ``rows`` of them; none at first.
    """

    def __init__(
        self, frame: pl.DataFrame, declared: Sequence[Aggregate], events: EventsConfig
    ) -> None:
        """frame: log columns, in any order of rows; they are folded by time, ties as they stand.

        Where it lacks one of TERMS, nothing is known of it.
        """
        self.state, self.rows = Aggregates(tuple(declared)), 0
        frame = _with_terms(frame, declared).sort("timestamp", maintain_order=True)
        self._times = frame["timestamp"].to_numpy()
        positive = [name for name, weight in events.weights.items() if weight > 0]
        frame = frame.with_row_index("row").with_columns(pl.col("row").cast(pl.Int64))
        keys = {a.key if a.key != "pair" else "item" for a in declared}
        for key in keys - {"category"}:
            frame = _numbered(self.state, frame, key)
        each = frame
        if "category" in keys:
            each = _numbered(self.state, frame.explode("category_id"), "category")
        self._updates = {
            a.name: _updates(self.state, a, each if a.key == "category" else frame, positive)
            for a in declared
        }

    def __len__(self) -> int:
        """Rows of the log."""
        return len(self._times)

    def advance(self, rows: int | None = None) -> Aggregates:
        """The state after the first ``rows`` rows in time order, by default all.

        It is the same object each time and goes forward only: what has been told cannot be taken
        back, so asking for fewer rows than before raises ValueError.
        """
        rows = len(self._times) if rows is None else rows
        if rows < self.rows:
            raise ValueError(f"aggregates as of {rows} rows, but {self.rows} are folded already")
        self.rows = rows
        for aggregate in self.state.declared:
            table, updates = self.state.tables[aggregate.name], self._updates[aggregate.name]
            end = int(np.searchsorted(updates.rows, rows, side="left"))
            if end > updates.done:
                part = slice(updates.done, end)
                _fold(
                    aggregate,
                    table,
                    updates.keys[part],
                    updates.cells[part],
                    updates.moments[part],
                    updates.amounts[part],
                )
                self.state.changed(aggregate, updates.keys[part])
                updates.done = end
        if rows:
            self.state.moment = max(self.state.moment, float(self._times[rows - 1]))
        return self.state

    def before(self, moment: float) -> int:
        """How many rows are of the moment or earlier."""
        return int(np.searchsorted(self._times, moment, side="right"))

    def again(self) -> "LogFold":
        """The same fold from the start, beside this one."""
        other = copy.copy(self)
        other.state, other.rows = copy.copy(self.state), 0
        other.state.moment, other.state._tops, other.state._touched = NEVER, {}, {}
        other.state.tables = {name: Table(table.cells) for name, table in self.state.tables.items()}
        for name, table in self.state.tables.items():
            other.state.tables[name].reserve(len(table.first))
        other._updates = {k: replace(updates, done=0) for k, updates in self._updates.items()}
        return other


def told_to_ranker(
    config: Config, frame: pl.DataFrame, before: pl.DataFrame | None = None
) -> LogFold | None:
    """A fold of what a configuration's ranker is told of, over a log and what precedes it; none
    where it is told of nothing."""
    declared = ranking_by(config)
    if not declared:
        return None
    whole = frame if before is None else pl.concat([before, frame], how="diagonal")
    return LogFold(whole, declared, config.events)


def _with_terms(frame: pl.DataFrame, declared: Sequence[Aggregate]) -> pl.DataFrame:
    """The columns that aggregates are made of, the lists of categories as category_id."""
    columns = ["session_id", "user_id", "item_id", "type", "timestamp", "value"]
    price, category = pl.lit(None, pl.Float64), pl.lit(None, pl.List(pl.String))
    terms = list[pl.Expr]()
    if any(a.field == "price" for a in declared):
        terms.append((pl.col("price") if "price" in frame.columns else price).alias("price"))
    if any(a.key == "category" for a in declared):
        told = pl.col("category") if "category" in frame.columns else category
        terms.append(told.alias("category_id"))
    return frame.select(*columns, *terms)


def _numbered(state: Aggregates, frame: pl.DataFrame, key: str) -> pl.DataFrame:
    """With the numbers of a key's names in a column, null where there is none."""
    names = frame[f"{key}_id"].unique(maintain_order=True).drop_nulls()
    numbers = [state.number(key, name) for name in names]
    table = pl.DataFrame({f"{key}_id": names, key: pl.Series(numbers, dtype=pl.Int32)})
    return frame.join(table, on=f"{key}_id", how="left", maintain_order="left")


def _updates(
    state: Aggregates, aggregate: Aggregate, frame: pl.DataFrame, positive: list[str]
) -> _Updates:
    types = list(aggregate.types or positive)
    if aggregate.kind == "co_count":
        return _steps(state, aggregate, frame.filter(pl.col("type").is_in(types)))
    key = pl.col(aggregate.key)
    parts = [frame.filter(key.is_not_null(), pl.col("type").is_in(types)).with_columns(cell=0)]
    if aggregate.kind == "ratio":
        of = pl.col("type").is_in(list(aggregate.of))
        parts.append(frame.filter(key.is_not_null(), of).with_columns(cell=1))
    rows = pl.concat(parts).sort("row", maintain_order=True)
    rows = rows.with_columns(key=key, moment=pl.col("timestamp"), amount=pl.lit(1.0))
    if aggregate.once:
        part = (pl.col("timestamp") / aggregate.once_seconds).floor()
        rows = rows.filter(pl.struct("key", "session_id", part).is_first_distinct())
    if aggregate.kind == "last_value":
        told = pl.col(aggregate.field)
        rows = rows.filter(told.is_not_null()).with_columns(amount=told)
    elif aggregate.window:
        step = (pl.col("timestamp") / (aggregate.span / STEPS)).floor()
        rows = rows.with_columns(moment=step)
        if aggregate.kind == "unique_sessions":
            rows = _moves(rows)
        rows = rows.with_columns(cell=(pl.col("moment") % STEPS))
    state.tables[aggregate.name].reserve(len(state.numbers[aggregate.key]))
    return _arrays(rows)


def _moves(rows: pl.DataFrame) -> pl.DataFrame:
    """A session counts in the step of its latest event, and no longer in that of the one before."""
    before = pl.col("moment").shift().over("key", "session_id")
    moved = rows.with_columns(before=before).filter(
        pl.col("before").is_null() | (pl.col("before") != pl.col("moment"))
    )
    left = moved.filter(pl.col("before").is_not_null()).with_columns(
        moment=pl.col("before"), amount=pl.lit(-1.0)
    )
    return pl.concat([left, moved]).sort("row", maintain_order=True)


def _steps(state: Aggregates, aggregate: Aggregate, frame: pl.DataFrame) -> _Updates:
    """From every event to every one of the session at the next time there is."""
    events = frame.filter(pl.col("item").is_not_null()).select(
        "row",
        "session_id",
        "item",
        "timestamp",
        time=pl.col("timestamp").rank("dense").over("session_id"),
    )
    starts = events.select("session_id", start="item", began="timestamp", time=pl.col("time") + 1)
    rows = events.join(starts, on=["session_id", "time"]).filter(
        pl.col("item") != pl.col("start"),
        pl.col("timestamp") - pl.col("began") <= aggregate.gap_seconds,
    )
    rows = rows.sort("row", maintain_order=True)
    steps, table = state.steps[aggregate.name], state.tables[aggregate.name]
    links = steps.link_all(rows["start"].to_numpy(), rows["item"].to_numpy())
    table.reserve(steps.links)
    return _arrays(
        rows.with_columns(
            key=pl.Series(links), cell=0, moment=pl.col("timestamp"), amount=pl.lit(1.0)
        )
    )


def _arrays(rows: pl.DataFrame) -> _Updates:
    return _Updates(
        rows["row"].to_numpy(),
        rows["key"].cast(pl.Int32).to_numpy(),
        rows["cell"].cast(pl.Int32).to_numpy(),
        rows["moment"].cast(pl.Float64).to_numpy(),
        rows["amount"].cast(pl.Float64).to_numpy(),
    )


def _fold(
    aggregate: Aggregate,
    table: Table,
    keys: Rows,
    cells: Rows,
    moments: Doubles,
    amounts: Doubles,
) -> None:
    arguments = (table.first, table.second, keys, cells, moments, amounts)
    if aggregate.kind == "last_value":
        _latest(*arguments)
    elif aggregate.window:
        _counted(*arguments)
    else:
        _decayed(*arguments, aggregate.span)


@njit(cache=True, nogil=True)
def _decayed(
    first: Doubles,
    second: Doubles,
    keys: Rows,
    cells: Rows,
    times: Doubles,
    amounts: Doubles,
    half_life: float,
) -> None:
    for k in range(len(keys)):
        row, cell, time, amount = keys[k], cells[k], times[k], amounts[k]
        if time >= second[row, cell]:
            since = (second[row, cell] - time) / half_life
            first[row, cell] = first[row, cell] * 2.0**since + amount
            second[row, cell] = time
        else:
            first[row, cell] += amount * 2.0 ** ((time - second[row, cell]) / half_life)


@njit(cache=True, nogil=True)
def _counted(
    first: Doubles, second: Doubles, keys: Rows, cells: Rows, steps: Doubles, amounts: Doubles
) -> None:
    for k in range(len(keys)):
        row, cell, step = keys[k], cells[k], steps[k]
        if step > second[row, cell]:
            first[row, cell], second[row, cell] = amounts[k], step
        elif step == second[row, cell]:
            first[row, cell] += amounts[k]


@njit(cache=True, nogil=True)
def _latest(
    first: Doubles, second: Doubles, keys: Rows, cells: Rows, times: Doubles, values: Doubles
) -> None:
    for k in range(len(keys)):
        row, cell, time = keys[k], cells[k], times[k]
        newer = time > second[row, cell]
        if newer or (time == second[row, cell] and values[k] > first[row, cell]):
            first[row, cell], second[row, cell] = values[k], time
