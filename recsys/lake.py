"""Lake: accepted events as Parquet files by the hour, which `recsys train` reads as they are.

    <folder>/2026-11-24/13-2-000.parquet    day and hour (UTC) of the events, partition, part

An event lies in the hour of its own time, however late it came. A file says in its metadata how far
into which stream it reaches, so what is delivered again is known from the file itself. It becomes
visible whole, by its rename, or not at all.
"""

import fcntl
import logging
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import orjson
import polars as pl

from recsys.bundle import fsync
from recsys.events import ACCEPTED, TERMS, Event
from recsys.quarantine import Mark, marks, marks_path, mended

logger = logging.getLogger("recsys.lake")

# The columns of a log, and what else is known of an event.
SCHEMA: dict[str, pl.DataType] = {
    "user_id": pl.String(),
    "session_id": pl.String(),
    "item_id": pl.String(),
    "type": pl.String(),
    "timestamp": pl.Float64(),
    "value": pl.Float64(),
    "event_id": pl.String(),
    "recommendation_id": pl.String(),
    "position": pl.Int64(),
    "properties": pl.String(),
    # The place of the entry in its stream: when it was accepted, and which one in that millisecond.
    ACCEPTED: pl.Int64(),
    "accepted_number": pl.Int64(),
    # What was known of the item then; older files lack it.
    "price": pl.Float64(),
    "category": pl.List(pl.String()),
}
OF_EVENTS = [name for name in SCHEMA if name in Event.__struct_fields__]  # written as they are
PART_ROWS = 200_000  # a part is written anew with each addition; beyond this the next one begins
REACHED = "recsys.reached"  # the metadata that holds a place for each stream, by the log's name

Place = tuple[int, int]  # of an entry in its stream: milliseconds, number
NOWHERE: Place = (0, 0)


@dataclass(frozen=True, slots=True)
class Entry:
    """An accepted event. place: in the stream of its partition. user_id: known of its session."""

    place: Place
    event: Event
    user_id: str | None


@dataclass
class Lake:
    """A folder of files, and the partitions of it that this process alone writes."""

    folder: Path
    _locks: dict[int, int] = field(default_factory=dict)
    _ends: dict[tuple[int, str], "_End"] = field(default_factory=dict)
    # By partition: the marks in its file, and where their last line ends.
    _marked: dict[int, tuple[set[Mark], int]] = field(default_factory=dict)

    def take(self, partition: int) -> bool:
        """Become the one that writes a partition; False where another process is.

        The kernel lets go of it with the process, however it ends.
        """
        if partition in self._locks:
            return True
        self.folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.folder / f".lock-{partition}", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        self._locks[partition] = descriptor
        for left in self.folder.glob(f"*/.??-{partition}-*.parquet"):
            left.unlink()  # of an owner that was killed while it wrote
        return True

    def look_again(self) -> None:
        """Forget where files end: somebody may have moved or mended them."""
        self._ends.clear()
        self._marked.clear()

    def release(self, partition: int) -> None:
        """Let another process write it."""
        os.close(self._locks.pop(partition))
        self._marked.pop(partition, None)
        self._ends = {key: end for key, end in self._ends.items() if key[0] != partition}

    @property
    def held(self) -> list[int]:
        """The partitions that this process writes."""
        return sorted(self._locks)

    def add(self, partition: int, entries: Sequence[Entry], log: str) -> int:
        """Make entries durable, in the order of their places; returns how many are new.

        log: the name of the live log that they are of: places of another tell nothing of them.
        Those that a file reaches already are in it. Raises OSError; what was not added then may be
        added again.
        """
        assert partition in self._locks
        hours: defaultdict[str, list[Entry]] = defaultdict(list)
        for entry in entries:
            hours[hour_of(entry.event.timestamp)].append(entry)
        return sum(self._add(partition, hour, found, log) for hour, found in hours.items())

    def mark(self, partition: int, found: Sequence[Mark]) -> None:
        """Make durable which sessions went into quarantine or left it, at the end of a file. Raises
        OSError.

        What is there already may be marked again.
        """
        assert partition in self._locks
        if not found:  # as mostly; then a damaged file does not keep events from being written
            return
        path = marks_path(self.folder, partition)
        # Whatever fails from here on, the file is looked at again.
        known, end = self._marked.pop(partition, (set(), 0))
        size = path.stat().st_size if path.exists() else 0
        changed = end != size
        if changed:
            known, end = set(marks(path)), mended(path) if size else 0
        new = [mark for mark in dict.fromkeys(found) if mark not in known]
        if new:
            lines = b"".join(orjson.dumps(mark) + b"\n" for mark in new)
            with path.open("ab") as file:
                file.write(lines)
            known.update(new)
            end += len(lines)
        if new or changed:  # what was found may never have been flushed
            fsync(path)
            fsync(self.folder)
        self._marked[partition] = known, end

    def _add(self, partition: int, hour: str, entries: list[Entry], log: str) -> int:
        end = self._ends.get((partition, hour)) or _end_of(self.folder, partition, hour)
        new = [entry for entry in entries if entry.place > end.reached.get(log, NOWHERE)]
        if new:
            rows = _table(new)
            if end.rows and end.rows + len(rows) > PART_ROWS:
                end = _End(end.part + 1, 0, end.reached)
            path = _path(self.folder, partition, hour, end.part)
            # Whatever fails from here on, the file is looked at again.
            self._ends.pop((partition, hour), None)
            before = [pl.read_parquet(path, glob=False)] if end.rows else []
            frame = pl.concat([*before, rows], how="diagonal")
            reached = {**end.reached, log: new[-1].place}
            _write(frame, path, reached)
            end = _End(end.part, len(frame), reached)
        self._ends[partition, hour] = end
        return len(new)


def hour_of(timestamp: float) -> str:
    """Day and hour, UTC, as a file's path begins: "2026-11-24/13"."""
    return datetime.fromtimestamp(timestamp, UTC).strftime("%Y-%m-%d/%H")


@dataclass(frozen=True, slots=True)
class _End:
    """Where an hour of a partition stands: its last part, the rows in it, how far into which log it
    reaches."""

    part: int = 0
    rows: int = 0
    reached: Mapping[str, Place] = field(default_factory=dict)


def _end_of(folder: Path, partition: int, hour: str) -> _End:
    day, of_day = hour.split("/")
    parts = sorted((folder / day).glob(f"{of_day}-{partition}-*.parquet"))
    if not parts:
        return _End()
    number = int(parts[-1].stem.rsplit("-", 1)[1])
    try:
        told = orjson.loads(pl.read_parquet_metadata(parts[-1])[REACHED])
        rows = pl.scan_parquet(parts[-1], glob=False).select(pl.len()).collect().item()
    except (KeyError, ValueError, pl.exceptions.PolarsError) as error:
        logger.error("%s is not as it was written here, so it is left alone: %s", parts[-1], error)
        return _End(number + 1)
    return _End(number, rows, {log: (place[0], place[1]) for log, place in told.items()})


def _path(folder: Path, partition: int, hour: str, part: int) -> Path:
    return folder / f"{hour}-{partition}-{part:03d}.parquet"


def _table(entries: list[Entry]) -> pl.DataFrame:
    rows = [
        {
            **{name: getattr(entry.event, name) for name in OF_EVENTS},
            **{name: entry.event.terms.get(name) for name in TERMS},
            "user_id": entry.event.user_id or entry.user_id,
            "properties": orjson.dumps(entry.event.properties).decode()
            if entry.event.properties
            else None,
            ACCEPTED: entry.place[0],
            "accepted_number": entry.place[1],
        }
        for entry in entries
    ]
    return pl.DataFrame(rows, schema=SCHEMA, orient="row")


def _write(frame: pl.DataFrame, path: Path, reached: Mapping[str, Place]) -> None:
    """A file whole, durable and visible, or not there."""
    path.parent.mkdir(exist_ok=True)
    aside = path.with_name(f".{path.name}")
    frame.write_parquet(aside, metadata={REACHED: orjson.dumps(reached).decode()})
    fsync(aside)
    aside.rename(path)
    fsync(path.parent)
    fsync(path.parent.parent)
