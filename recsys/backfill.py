"""Backfill: what files of the lake hold from before an aggregate was declared.

Sessions of which nothing more is to come are folded as a log, and their rows are added to those of
the stream. What the stream still knows of a session, such as what its latest event was, is made by
its own counting: events of the others are counted one by one. Sessions in quarantine are left
out of what everybody is shown; of those that went into it after the aggregate was declared, the
store has taken out, or takes out, what is filled in here.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import orjson
import polars as pl

from recsys import snapshot
from recsys.aggregate_log import LogFold
from recsys.aggregates import NEVER, defined, for_everybody, oldest
from recsys.config import Aggregate, EventsConfig
from recsys.events import ACCEPTED, TERMS, Event
from recsys.lake import SCHEMA, Place
from recsys.quarantine import left_out
from recsys.store import Chunk, place_of

logger = logging.getLogger("recsys.backfill")

# In one call of the store, which does nothing else meanwhile: a few milliseconds.
ROWS, EVENTS = 250, 50

COLUMNS = ("session_id", "user_id", "item_id", "type", "timestamp", "value", "event_id")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be filled in from a partition of the lake.

    definition: see `aggregates.definition`. after: the place after which the stream counted. done:
    how many chunks are filled in.
    """

    definition: dict[str, Any]
    after: Place
    done: int


def wanted(reply: Sequence[bytes]) -> dict[int, list[Wanted]]:
    """By partition, what the store's `unfilled` told."""
    definitions = {found["id"]: found for found in orjson.loads(reply[0])}
    found: dict[int, list[Wanted]] = {}
    for at in range(1, len(reply), 4):
        id_, partition, after, done = reply[at : at + 4]
        found.setdefault(int(partition), []).append(
            Wanted(definitions[id_.decode()], place_of(after), int(done))
        )
    return found


def chunks(folder: Path, partition: int, some: Sequence[Wanted], ttl: float) -> Iterator[Chunk]:
    """What is not yet filled in, in the order in which the store takes it.

    The files must hold all of the partition up to the places of ``some``. ttl: seconds that the
    store keeps a session. The same files give the same chunks, also after more was added to them.
    """
    frame = _events(folder, partition, min(map(_least, some)))
    for k, one in enumerate(some):
        out = left_out(folder, partition, one.after)
        yield from _of(frame, one, out, str(partition), ttl, anew=k + 1 == len(some))


def _of(
    frame: pl.DataFrame, one: Wanted, out: set[str], source: str, ttl: float, anew: bool
) -> Iterator[Chunk]:
    aggregate = defined(one.definition)
    before = frame.filter(
        pl.col(ACCEPTED).is_null()
        | (pl.col(ACCEPTED) < one.after[0])
        | ((pl.col(ACCEPTED) == one.after[0]) & (pl.col("accepted_number") <= one.after[1])),
        pl.col("timestamp") > one.definition.get("since", NEVER),
    )
    counted = before.filter(pl.col("type").is_in([*aggregate.types, *aggregate.of]))
    if for_everybody(aggregate):
        counted = counted.filter(~pl.col("session_id").is_in(list(out)))
    latest = pl.max_horizontal(ACCEPTED, pl.col("timestamp") * 1000).max().over("session_id")
    known = latest >= one.after[0] - 1000 * _memory(aggregate, ttl)
    fold = LogFold(counted.filter(~known), (aggregate,), EventsConfig()).advance()
    rows = list(snapshot.taken(fold).rows(0))
    events = list(_accepted(counted.filter(known)))
    parts: list[tuple[list[tuple[bytes, bytes]], list[Event]]] = [
        *((rows[at : at + ROWS], []) for at in range(0, len(rows), ROWS)),
        *(([], events[at : at + EVENTS]) for at in range(0, len(events), EVENTS)),
    ]
    parts = parts or [([], [])]
    moment = float(before["timestamp"].max()) if len(before) else NEVER  # type: ignore[arg-type]  # not empty
    for number, (some_rows, some_events) in list(enumerate(parts))[one.done :]:
        last = number + 1 == len(parts)
        told = last and anew and len(before) > 0
        id_ = one.definition["id"]
        yield Chunk(id_, source, number, last, moment, some_rows, some_events, anew=told)


def _accepted(frame: pl.DataFrame) -> Iterator[Event]:
    for *fields, terms in frame.select(*COLUMNS, pl.struct(TERMS)).iter_rows():
        told = {name: value for name, value in terms.items() if value is not None}
        yield Event(**dict(zip(COLUMNS, fields, strict=True)), terms=told)


def _memory(aggregate: Aggregate, ttl: float) -> float:
    """Seconds for which the stream knows a session's events when the next one comes."""
    if aggregate.kind == "unique_sessions":
        return 2 * aggregate.span
    if aggregate.once:
        return max(ttl, 2 * aggregate.once_seconds)
    return ttl if aggregate.kind == "co_count" or aggregate.key == "session" else NEVER


def _least(one: Wanted) -> float:
    """Unix seconds of the earliest event that can still count."""
    aggregate, moment = defined(one.definition), one.after[0] / 1000
    if aggregate.window:
        return moment - aggregate.span
    return oldest(aggregate, moment)


def _events(folder: Path, partition: int, least: float) -> pl.DataFrame:
    """The events of a partition's files from the hour of a moment on, as they were accepted."""
    columns = {name: SCHEMA[name] for name in (*COLUMNS, *TERMS, ACCEPTED, "accepted_number")}
    parts = [pl.DataFrame(schema=columns)]
    for path in sorted(folder.glob(f"*/??-{partition}-*.parquet")):
        if _ends(path) <= least:
            continue
        try:
            with path.open("rb") as file:
                scan = pl.scan_parquet(file)
                there = set(scan.collect_schema().names())
                parts.append(scan.select(name for name in columns if name in there).collect())
        except (OSError, pl.exceptions.PolarsError) as error:
            logger.error("%s cannot be read, aggregates are filled in without it: %s", path, error)
    frame = pl.concat(parts, how="diagonal")
    return frame.sort(pl.struct(ACCEPTED, "accepted_number"), maintain_order=True)


def _ends(path: Path) -> float:
    """Unix seconds of the end of a file's hour."""
    begins = datetime.strptime(f"{path.parent.name} {path.name[:2]} +0000", "%Y-%m-%d %H %z")
    return begins.timestamp() + 3600
