"""What was before an aggregate is declared counts as if it had been declared always."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs
from redis.exceptions import ConnectionError as Disconnected

from recsys import snapshot
from recsys.aggregates import Aggregates, definition
from recsys.embedded import EmbeddedRedis
from recsys.events import Event
from recsys.lake import Entry, Lake
from recsys.logs import load_log, log_from_frame
from recsys.mirror import mirrored
from recsys.store import Store, StoreUnavailable, partition_of
from recsys.stream import Stream
from tests.test_mirror import (
    CONFIG,
    DECLARED,
    accept,
    assert_same,
    frame_of,
    of_log,
    some_events,
)

pytestmark = pytest.mark.anyio

FOR_ALL = tuple(a for a in DECLARED if a.key != "session")
UNDECLARED = replace(CONFIG, aggregate=())


@pytest.fixture
def reader(redis_server: EmbeddedRedis, store: Store, tmp_path: Path) -> Iterator[Any]:
    """Makes readers of the store's log into one folder, one after the other."""
    made: list[Stream] = []

    def leave() -> None:
        for stream in made:
            for partition in stream.lake.held:
                stream.lake.release(partition)

    def make() -> Stream:
        leave()
        made.append(Stream(redis_server.url, Lake(tmp_path), store.config))
        return made[-1]

    yield make
    leave()
    for stream in made:
        stream.redis.close()


def of_earlier_visitors(count: int, seed: int) -> list[Event]:
    """Of sessions that are over."""
    events = some_events(count, seed)
    return [structs.replace(e, session_id=f"{e.session_id}-before") for e in events]


def put_in_files(events: list[Event], store: Store, folder: Path) -> None:
    """As a reader of a log that is lost wrote them long ago, accepted as they happened."""
    lake = Lake(folder)
    events = sorted(events, key=lambda event: event.timestamp)
    for partition in range(store.config.log_partitions):
        lake.take(partition)
        entries = [
            Entry((int(1000 * event.timestamp), k), event, event.user_id)
            for k, event in enumerate(events)
            if partition_of(event.session_id, store.config) == partition
        ]
        lake.add(partition, entries, "lost")
        lake.release(partition)


async def found(store: Store, base: snapshot.Snapshot = snapshot.EMPTY) -> Aggregates:
    return (await mirrored(store, CONFIG, base, declare=False, everything=True)).state


async def test_files_and_the_log_are_filled_in(store: Store, reader: Any, tmp_path: Path) -> None:
    """Of lost and present logs, written and unwritten, of sessions that are over and that go on."""
    lost = of_earlier_visitors(60, 1)
    put_in_files(lost, store, tmp_path)
    written, waiting, later = some_events(40, 2), some_events(40, 3), some_events(40, 4)
    await mirrored(store, UNDECLARED)
    await accept(store, written)
    reader().drain()
    await accept(store, waiting)
    mirror = await mirrored(store, CONFIG)
    await accept(store, later)
    reader().drain()
    assert await mirror.catch_up(store) is None
    wanted = of_log([*lost, *written, *waiting, *later])
    assert_same(await found(store), wanted, FOR_ALL)
    more = some_events(30, 5)
    await accept(store, more)
    reader().drain()
    wanted = of_log([*lost, *written, *waiting, *later, *more])
    assert_same(await found(store), wanted, FOR_ALL)


async def test_what_a_session_has_of_its_own_is_filled_in(store: Store, reader: Any) -> None:
    """A visitor who is here while an aggregate is declared."""
    before, later = some_events(40, 2), some_events(40, 3)
    await mirrored(store, UNDECLARED)
    await accept(store, before)
    await mirrored(store, CONFIG)
    await accept(store, later)
    reader().drain()
    assert_same(await found(store), of_log([*before, *later]), DECLARED)


async def test_what_was_declared_before_is_filled_in_anew(store: Store, reader: Any) -> None:
    """Back at a bundle that was rolled back from: nothing is left of the first time."""
    before, between, later = (some_events(40, seed) for seed in (2, 3, 4))
    await mirrored(store, CONFIG)
    await accept(store, before)
    await mirrored(store, UNDECLARED)
    await accept(store, between)
    await mirrored(store, CONFIG)
    await accept(store, later)
    reader().drain()
    assert_same(await found(store), of_log([*before, *between, *later]), DECLARED)


async def test_a_reader_that_dies_while_it_fills_in_repeats_nothing(
    store: Store, reader: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next one goes on with the chunk that is missing, also where its answer was lost."""
    monkeypatch.setattr("recsys.backfill.EVENTS", 7)
    monkeypatch.setattr("recsys.backfill.ROWS", 5)
    monkeypatch.setattr("recsys.stream.FILL_FOR", 0.0)  # as on a busy machine
    lost, before = of_earlier_visitors(60, 1), some_events(60, 2)
    put_in_files(lost, store, tmp_path)
    await mirrored(store, UNDECLARED)
    await accept(store, before)
    await mirrored(store, CONFIG)
    deaths = 0
    for lives in range(1, 60, 9):
        stream = reader()
        original, filled = stream._call, []

        def dying(
            *args: Any, original: Any = original, filled: Any = filled, at: int = lives
        ) -> Any:
            answer = original(*args)
            filled += [args] * (args[0] == "fill")
            if len(filled) == at:
                raise Disconnected("killed")
            return answer

        monkeypatch.setattr(stream, "_call", dying)
        try:
            stream.drain()
        except StoreUnavailable:
            deaths += 1
        await accept(store, [some_events(60, 10 + lives)[0]])
    reader().drain()
    assert deaths > 2
    later = [some_events(60, 10 + lives)[0] for lives in range(1, 60, 9)]
    assert_same(await found(store), of_log([*lost, *before, *later]), FOR_ALL)


async def test_a_store_begins_with_the_snapshot_of_a_bundle(
    store: Store, redis_server: EmbeddedRedis
) -> None:
    """Told by several workers at once, each row counts once; later bundles of it go on."""
    log, live = of_earlier_visitors(400, 1), some_events(60, 2)
    base = snapshot.of_log(log_from_frame(frame_of(log)), CONFIG)
    workers = [store, *(Store(redis_server.url, store.config) for _ in range(2))]
    await asyncio.gather(*(mirrored(worker, CONFIG, base) for worker in workers))
    await accept(store, live)
    assert_same(await found(store, base), of_log([*log, *live]), FOR_ALL)
    await mirrored(store, CONFIG, base)
    assert_same(await found(store, base), of_log([*log, *live]), FOR_ALL)
    for worker in workers[1:]:
        await worker.close()


async def test_another_snapshot_begins_anew(store: Store, reader: Any, tmp_path: Path) -> None:
    """A log that has grown holds what the stream brought up to its end; from there files go on."""
    early = [e for e in some_events(120, 1) if e.timestamp < 1.7e9 + 9000]
    late = [e for e in of_earlier_visitors(120, 2) if e.timestamp > 1.7e9 + 9001]
    first = snapshot.of_log(log_from_frame(frame_of(early[:20])), CONFIG)
    await mirrored(store, CONFIG, first)
    await accept(store, [*early, *late])
    reader().drain()
    exported = log_from_frame(frame_of(early))
    second = snapshot.of_log(exported, CONFIG)
    await mirrored(store, CONFIG, second)
    reader().drain()
    cut = exported.imported_until
    wanted = of_log([*early, *(e for e in late if e.timestamp > cut)])
    assert_same(await found(store, second), wanted, FOR_ALL)


async def test_what_the_stream_brought_is_no_base(
    store: Store, reader: Any, tmp_path: Path
) -> None:
    """A log of the lake's files has no snapshot: the store knows them itself."""
    await mirrored(store, CONFIG)
    await accept(store, some_events(40, 2))
    reader().drain()
    log = load_log([tmp_path])
    assert snapshot.of_log(log, CONFIG) is snapshot.EMPTY
    other = tmp_path / "other.parquet"
    frame_of(of_earlier_visitors(40, 3)).write_parquet(other)
    both = load_log([tmp_path, other])
    assert both.imported_until == max(e.timestamp for e in of_earlier_visitors(40, 3))
    assert snapshot.of_log(both, CONFIG).moment <= both.imported_until


def test_the_same_rows_are_the_same_statistic() -> None:
    """An id follows from what is counted and what it begins with, nothing else."""
    frame = frame_of(some_events(60, 1)).sort("timestamp")
    log = log_from_frame(frame)
    one, fewer = (snapshot.of_log(log, replace(CONFIG, aggregate=of)) for of in (DECLARED, FOR_ALL))
    other = snapshot.of_log(log_from_frame(frame[10:]), CONFIG)
    ids = [
        definition(DECLARED[0], CONFIG, base.digest(0), base.moment)["id"]
        for base in (one, fewer, other, snapshot.EMPTY)
    ]
    assert ids[0] == ids[1]
    assert len(set(ids)) == 3


def test_a_fold_after_a_snapshot_is_the_fold_of_both() -> None:
    """What the offline replay of a store has that began with one."""
    log, live = of_earlier_visitors(120, 1), some_events(60, 2)
    config = replace(CONFIG, aggregate=tuple(replace(a, ranking=True) for a in DECLARED))
    base = snapshot.of_log(log_from_frame(frame_of(log)), config)
    fold = snapshot.told_after(base, config, frame_of(live))
    assert fold
    assert_same(fold.advance(), of_log([*log, *live]), FOR_ALL)
