"""Logs: raw event files become one table of clean events, and every row is accounted for.

files ──► columns (mapping, aliases) ──► clean, file by file ──► one table in time order
"""

import math
import os
import time
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import orjson
import polars as pl

from recsys.cautions import cautions
from recsys.config import EventsConfig, nearest
from recsys.events import ACCEPTED, TERMS
from recsys.items import Item
from recsys.logfiles import (
    REJECT_SCHEMA,
    LogError,
    Source,
    Table,
    find_files,
    in_one_piece,
    open_source,
)
from recsys.logrows import COLUMNS, Rows, Rules, clean, no_weight, reject_rows
from recsys.quarantine import left_out

__all__ = ["COLUMNS", "Log", "LogError", "load_log", "log_from_frame", "sessionize"]

# Other names of the columns, tried in this order where the standard name is missing; compared
# without case, "_", "-" and blanks.
ALIASES: dict[str, tuple[str, ...]] = {
    "user_id": ("userid", "user", "visitorid", "visitor", "customerid"),
    "session_id": ("sessionid", "session", "usersession"),
    "item_id": ("itemid", "item", "productid", "product"),
    "type": ("eventtype", "event"),
    "timestamp": ("time", "ts", "eventtime", "datetime"),
    "value": ("rating",),
    "event_id": ("eventid",),
    "category": ("category",),
    "price": ("price",),
}

NAMES = (*COLUMNS, *TERMS)  # all that a log may have

REPEATED, QUARANTINED = "duplicate_event_id", "quarantined"
HARMLESS = (REPEATED, QUARANTINED)  # the reasons that do not make a log a bad one


@dataclass(frozen=True)
class Log:
    """The events of a log, and what became of every row of it."""

    # COLUMNS; user_id, value and event_id may be null, item_id for search events. Then those of
    # TERMS that say something: category a List(String), price a Float64. In time order, ties in
    # file order.
    frame: pl.DataFrame
    read: int  # rows
    rejected: dict[str, int]  # reason -> rows
    clock: Literal["time", "rows"]  # "rows": no timestamps, the timestamp is the row number
    notes: list[str]  # what was assumed or repaired
    rejects_path: Path | None = None  # the rejected rows as JSON lines
    # Unix seconds of the last event that is not of the lake's files; -inf: the stream brought all.
    imported_until: float = math.inf
    # What the shop says of items, those among them that no event names.
    items: Mapping[str, Item] = field(default_factory=dict)

    @property
    def kept(self) -> int:
        return len(self.frame)


@dataclass(frozen=True)
class _Options:
    columns: Mapping[str, str]
    config: EventsConfig
    default_type: str | None
    max_bad: float
    rejects: Path | None
    now: float


def load_log(
    paths: Sequence[str | Path],
    *,
    columns: Mapping[str, str] | None = None,
    config: EventsConfig | None = None,
    default_type: str | None = None,
    max_bad: float = 0.01,
    rejects: Path | None = None,
    now: float | None = None,
) -> Log:
    """The events in CSV, JSONL and Parquet files, folders and globs; of a lake, without those of
    sessions in quarantine.

    ``columns``: standard name -> the files' name; "" says that there is none. ``default_type``:
    of events without one. ``max_bad``: share of rejected rows, repeated and quarantined events
    aside, above which the log is refused. ``rejects``: where the rejected rows go, as JSON lines.
    ``now``: Unix seconds. Raises LogError.
    """
    options = _options(columns, config, default_type, max_bad, rejects, now)
    sources = [open_source(path) for path in find_files(paths)]
    lakes = {Path(source.name).parent.parent for source in sources if ACCEPTED in source.columns}
    try:
        quarantined = set[str]().union(*map(left_out, lakes))
    except OSError as error:
        raise LogError(str(error)) from error
    return _load(sources, options, quarantined)


def log_from_frame(frame: Any, **options: Any) -> Log:
    """The events in a polars frame, eager or lazy, or a pandas one. Options as in load_log."""
    return _load([_frame_source(frame)], _options(**options))


def sessionize(frame: pl.DataFrame, idle_minutes: float, separator: str = "#") -> pl.DataFrame:
    """Sessions cut where a user is idle: session ids ``user#0``, ``user#1``, … per user.

    ``frame``: user_id String, timestamp Float64, in time order. Returns it with session_id
    replaced; null where user_id is.
    """
    gap = idle_minutes * 60.0
    users = frame["user_id"].cast(pl.Categorical).to_physical()
    # In one order by user and time, a session opens at a new user and after a gap.
    by_user = (
        pl.LazyFrame({"user": users, "timestamp": frame["timestamp"]})
        .with_row_index("at")
        .sort("user", maintain_order=True)
        .with_columns(first=pl.col("user").ne_missing(pl.col("user").shift(1)))
        .with_columns(opens=pl.col("first") | (pl.col("timestamp").diff() > gap))
        .with_columns(number=pl.col("opens").cast(pl.UInt32).cum_sum())
        .with_columns(start=pl.when("first").then("number").forward_fill())
        .select("at", k=pl.col("number") - pl.col("start"))
    )
    numbers = by_user.sort("at").select("k").collect()["k"]
    session = pl.concat_str(pl.col("user_id"), pl.lit(separator), pl.lit(numbers))
    return frame.with_columns(session.alias("session_id"))


def _options(
    columns: Mapping[str, str] | None = None,
    config: EventsConfig | None = None,
    default_type: str | None = None,
    max_bad: float = 0.01,
    rejects: Path | None = None,
    now: float | None = None,
) -> _Options:
    columns, config = columns or {}, config or EventsConfig()
    for name in columns:
        if name not in NAMES:
            there = f"it has {', '.join(NAMES)}{nearest(name, list(NAMES))}"
            raise LogError(f"columns: a log has no column {name!r}; {there}")
    if default_type is not None and default_type not in config.weights:
        raise LogError(f"default type: {no_weight(default_type, config)}")
    now = time.time() if now is None else now
    return _Options(columns, config, default_type, max_bad, rejects and Path(rejects), now)


def _frame_source(frame: Any) -> Source:
    if isinstance(frame, pl.DataFrame | pl.LazyFrame):
        lazy = frame.lazy()
        names = lazy.collect_schema().names()
        return Source("frame", names, lambda wanted: Table.of(lazy.select(wanted).collect()))
    if type(frame).__module__.partition(".")[0] == "pandas" and hasattr(frame, "columns"):
        names = [name for name in frame.columns if isinstance(name, str)]
        return Source("frame", names, lambda wanted: Table.of(_from_pandas(frame[wanted])))
    raise LogError(f"frame: expected a polars or pandas DataFrame, got {type(frame).__name__}")


def _from_pandas(frame: Any) -> pl.DataFrame:
    """Columns of mixed objects, ids of both numbers and text, become text."""
    mixed = [name for name in frame.columns if frame[name].dtype == object]
    texts = {name: frame[name].map(_text).where(frame[name].notna(), None) for name in mixed}
    frame = frame.assign(**texts)
    return pl.DataFrame({name: _from_pandas_column(frame[name]) for name in frame.columns})


def _text(value: object) -> str:
    """A list as text formats say it."""
    if isinstance(value, list | tuple | np.ndarray):
        return orjson.dumps([*value], default=str).decode()
    return str(value)


def _from_pandas_column(column: Any) -> pl.Series:
    """Without pyarrow, which polars' own conversion of text and nullable columns needs."""
    values = column.to_numpy()
    if values.dtype != object:
        return pl.Series(values)
    known = zip(values, column.notna(), strict=True)
    return pl.Series([value if there else None for value, there in known])


def _load(sources: list[Source], options: _Options, quarantined: Set[str] = frozenset()) -> Log:
    notes = [f"{source.name} is empty" for source in sources if not source.columns]
    mappings = [_map_columns(source, options.columns) for source in sources if source.columns]
    sources = [source for source in sources if source.columns]
    if not sources:
        raise LogError(f"{'; '.join(notes)}: no events")
    timed = _is_timed(sources, mappings)
    for mapping in mappings:
        notes += _mapping_notes(mapping, _default_type(mapping, options))

    parts, rejects, read, imported_until = [], [], 0, -math.inf
    for number, (source, mapping) in enumerate(zip(sources, mappings, strict=True)):
        rules = Rules(options.config, _default_type(mapping, options), options.now, timed)
        mapping = mapping | _late_columns(source, mapping, options.columns)
        table = source.read(list(dict.fromkeys(mapping.values())))
        rows = clean(source.name, table, mapping, rules)
        if quarantined and ACCEPTED in source.columns:
            rows = _without(rows, source.name, quarantined)
        position = pl.col("row").cast(pl.Float64) + read
        frame = rows.frame if timed else rows.frame.with_columns(position.alias("timestamp"))
        parts.append(frame.with_columns(pl.lit(number, pl.UInt32).alias("file")))
        rejects.append(rows.rejects)
        notes += rows.notes
        read += table.read
        if ACCEPTED not in source.columns and len(frame):
            imported_until = max(imported_until, float(frame["timestamp"].max()))  # type: ignore[arg-type]  # not empty
        del table, rows, frame
    names = [source.name for source in sources]
    frame, repeated = _drop_repeated(pl.concat(parts, how="diagonal"), names)
    parts.clear()
    told = [name for name in TERMS if name in frame.columns and frame[name].count()]
    frame = in_one_piece(frame.select(*COLUMNS, *told))

    rejected = pl.concat([*rejects, repeated])
    path = _write_rejects(rejected, options.rejects)
    if read == 0:
        raise LogError(f"{', '.join(source.name for source in sources)}: the log has no rows")
    _check_bad(rejected, read, len(frame), options.max_bad, path)
    if not frame["timestamp"].is_sorted():
        frame = frame.sort("timestamp", maintain_order=True)
    frame, cut = _cut_sessions(frame, options.config.idle_minutes)
    notes += cut + _frame_notes(frame, timed) + cautions(frame, timed)
    counts = dict(rejected["reason"].value_counts(sort=True).sort("reason").iter_rows())
    clock: Literal["time", "rows"] = "time" if timed else "rows"
    return Log(frame, read, counts, clock, list(dict.fromkeys(notes)), path, imported_until)


# Columns


def _map_columns(source: Source, given: Mapping[str, str]) -> dict[str, str]:
    """Standard name -> column of the source. Raises LogError for a missing one."""
    columns = source.columns
    there = f"the columns are {', '.join(columns)}"
    for name, column in given.items():
        if column and column not in columns:
            near = nearest(column, columns)
            raise LogError(f"{source.name}: {name}: no column {column!r}; {there}{near}")
    free = [column for column in columns if column in NAMES or column not in given.values()]
    mapping = {name: given[name] if name in given else _find(name, free) for name in NAMES}
    mapping = {name: column for name, column in mapping.items() if column}
    if "item_id" not in mapping:
        raise LogError(f"{source.name}: no item_id; {there}; name it with --columns item_id=…")
    if not {"user_id", "session_id"} & set(mapping):
        remedy = "name one with --columns session_id=… or user_id=…"
        raise LogError(f"{source.name}: neither session_id nor user_id; {there}; {remedy}")
    if not {"session_id", "timestamp"} & set(mapping):
        remedy = "name one with --columns timestamp=… or session_id=…"
        raise LogError(
            f"{source.name}: users but neither sessions nor timestamps; {there}; {remedy}"
        )
    return mapping


def _find(name: str, columns: list[str]) -> str:
    """The column of a standard name: itself, else an alias, else ""."""
    if name in columns:
        return name
    plain = {c.lower().translate(str.maketrans("", "", "_- ")): c for c in reversed(columns)}
    return next((plain[alias] for alias in ALIASES[name] if alias in plain), "")


def _is_timed(sources: list[Source], mappings: list[dict[str, str]]) -> bool:
    timed = ["timestamp" in mapping for mapping in mappings]
    if any(timed) and not all(timed):
        odd = sources[timed.index(False)].name
        raise LogError(f"{odd}: no timestamp, but other files have one; load them apart")
    return all(timed)


def _default_type(mapping: dict[str, str], options: _Options) -> str:
    """What the log is told, else what a column of ratings tells, else the configuration's."""
    if options.default_type is not None:
        return options.default_type
    rated = "type" not in mapping and mapping.get("value", "").lower() == "rating"
    return "rating" if rated else options.config.default_type


def _late_columns(
    source: Source, mapping: dict[str, str], given: Mapping[str, str]
) -> dict[str, str]:
    """Standard columns that the first rows lack; timestamps are the clock from the start or not."""
    if not source.late:
        return {}
    return {c: c for c in NAMES if c != "timestamp" and c not in mapping and c not in given}


def _mapping_notes(mapping: dict[str, str], default_type: str) -> list[str]:
    notes = [f"{name} is column {column!r}" for name, column in mapping.items() if name != column]
    if "type" not in mapping:
        notes.append(f"no type: every event is of type {default_type!r}")
    return notes


# All files together


def _without(rows: Rows, name: str, quarantined: Set[str]) -> Rows:
    """Without the events of sessions in quarantine, which become rejects."""
    out = rows.frame["session_id"].is_in(list(quarantined)).fill_null(False)
    bad = rows.frame.filter(out)
    message = pl.lit("the session is in quarantine; recsys quarantine release lets it count")
    rejects = reject_rows(name, bad["row"], bad["session_id"], "session_id", QUARANTINED, message)
    return replace(rows, frame=rows.frame.filter(~out), rejects=pl.concat([rows.rejects, rejects]))


def _drop_repeated(frame: pl.DataFrame, names: list[str]) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Without the events whose id came before, and those as rejects."""
    ids = frame["event_id"]
    given = ids.drop_nulls()
    # Distinct hashes mean distinct ids, at a quarter of the time.
    if given.hash().n_unique() == len(given):
        return frame, pl.DataFrame(schema=REJECT_SCHEMA)
    repeated = ids.is_not_null() & ~ids.is_first_distinct()
    bad = frame.filter(repeated)
    message = pl.lit("this event came before")
    rejects = [
        reject_rows(names[number], part["row"], part["event_id"], "event_id", REPEATED, message)
        for (number,), part in bad.partition_by("file", as_dict=True).items()
    ]
    return frame.filter(~repeated), pl.concat(rejects)


def _cut_sessions(frame: pl.DataFrame, idle_minutes: float) -> tuple[pl.DataFrame, list[str]]:
    """Rows without a session get one by idle time, under ids that no given session has."""
    given = frame["session_id"]
    lacking = given.is_null().arg_true()
    if lacking.is_empty():
        return frame, []
    users = frame.select("user_id", "timestamp")
    if len(lacking) == len(frame):
        cut = sessions = sessionize(users, idle_minutes)["session_id"]
    else:
        cut = _cut_beside(users[lacking], idle_minutes, given)
        sessions = given.scatter(lacking, cut)
    note = f"{len(lacking):,} events without session: {cut.n_unique():,} sessions are cut"
    return frame.with_columns(sessions), [f"{note} at {idle_minutes:g} idle minutes"]


def _cut_beside(users: pl.DataFrame, idle_minutes: float, given: pl.Series) -> pl.Series:
    """Session ids cut from users under a separator that keeps them apart from the given ones."""
    separator = "#"
    while True:
        cut = sessionize(users, idle_minutes, separator)
        if cut.join(given.to_frame(), on="session_id", how="semi").is_empty():
            return cut["session_id"]
        separator += "#"


def _frame_notes(frame: pl.DataFrame, timed: bool) -> list[str]:
    notes = [] if timed else ["no timestamps: the order of the rows is the clock"]
    anonymous = frame["user_id"].null_count()
    if 0 < anonymous < len(frame):
        notes.append(f"{anonymous:,} events without user are anonymous")
    return notes


# Rejects


def _write_rejects(rejects: pl.DataFrame, path: Path | None) -> Path | None:
    """The rejects as JSON lines, whole or not at all; an older file goes if there are none."""
    if path is None:
        return None
    try:
        if rejects.is_empty():
            path.unlink(missing_ok=True)
            return None
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.tmp")
        rejects.write_ndjson(part)
        os.replace(part, path)
    except OSError as error:
        raise LogError(f"{path}: the rejected rows cannot be written: {error}") from error
    return path


def _check_bad(
    rejects: pl.DataFrame, read: int, kept: int, max_bad: float, path: Path | None
) -> None:
    """Raises LogError if too many rows are bad, or none is left."""
    bad = rejects.filter(~pl.col("reason").is_in(HARMLESS))
    if kept and len(bad) <= max_bad * read:
        return
    lines = [f"{len(bad):,} of {read:,} rows are bad, more than {100 * max_bad:g} %:"]
    for (reason,), rows in bad.group_by("reason", maintain_order=True):
        first = rows.row(0, named=True)
        shown = "" if first["value"] is None else f": {first['value']!r}"
        place = f"{first['file']} row {first['row']}"
        where = f"{place}, {first['field']}" if first["field"] else place
        lines.append(f"  {reason} {len(rows):,}, first in {where}{shown}: {first['message']}")
    if path:
        lines.append(f"  all of them: {path}")
    if "unknown_type" in rejects["reason"]:
        lines.append("a type of your own gets a weight under [events.weights] in recsys.toml")
    if kept:
        enough = math.ceil(100 * len(bad) / read) / 100
        lines.append(f"mend the log, or leave these rows out with --max-bad {enough:g}")
    else:
        lines.append("no row is left: mend the log or its --columns")
    raise LogError("\n".join(lines))
