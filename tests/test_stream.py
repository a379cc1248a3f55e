"""The live log becomes files: every accepted event once, and the log is cut behind them only."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import polars as pl
import pytest
from redis import Redis
from redis.exceptions import ConnectionError as Disconnected
from redis.exceptions import OutOfMemoryError

from recsys.embedded import EmbeddedRedis
from recsys.events import Event, decode_known, encode
from recsys.lake import Lake
from recsys.store import Lag, Store, StoreConfig, StoreUnavailable, log_key, partition_of
from recsys.stream import ENTRY_FIELDS, GROUP, NewerLogError, Stream

pytestmark = pytest.mark.anyio

START = 1_800_014_400.0


def clicks(first: int, last: int, sessions: int = 7) -> list[Event]:
    return [
        Event("click", f"s{k % sessions}", f"i{k}", event_id=f"e{k}", timestamp=START + 600 * k)
        for k in range(first, last)
    ]


def held(folder: Path) -> list[str]:
    """The event ids of all files, each as often as it stands there."""
    found = []
    for path in sorted(folder.glob("*/[!.]*.parquet")):
        with path.open("rb") as file:  # opened once: it may be replaced meanwhile
            found += pl.read_parquet(file)["event_id"].to_list()
    return found


def ids(first: int, last: int) -> list[str]:
    return sorted(f"e{k}" for k in range(first, last))


@pytest.fixture
def reader(redis_server: EmbeddedRedis, store: Store, tmp_path: Path) -> Iterator[Any]:
    """Makes readers of the store's log into one folder."""
    made = []

    def make(**options: Any) -> Stream:
        made.append(Stream(redis_server.url, Lake(tmp_path), store.config, **options))
        return made[-1]

    yield make
    for stream in made:
        for partition in stream.lake.held:
            stream.lake.release(partition)
        stream.redis.close()


@contextmanager
def running(stream: Stream) -> Iterator[Stream]:
    """A reader at work in a thread, which then stops in order."""
    stop = threading.Event()
    thread = threading.Thread(target=stream.run, args=(stop,), daemon=True)
    thread.start()
    try:
        yield stream
    finally:
        stop.set()
        thread.join(60)
    assert not thread.is_alive()


async def test_the_price_of_the_moment_reaches_the_files(
    reader: Any, store: Store, tmp_path: Path
) -> None:
    """What was known of an item when its event was accepted stands beside the event."""
    (event, *others) = clicks(0, 3)
    await store.put_items([("i0", {"price": 5.0, "category": ("a", "b")})])
    await store.append([event])
    await store.put_items([("i0", {"price": 6.0})])
    await store.append(others)
    reader().drain()
    found = pl.concat([pl.read_parquet(path) for path in tmp_path.glob("*/[!.]*.parquet")])
    terms = found.sort("event_id").select("price", "category").rows()
    assert terms == [(5.0, ["a", "b"]), (None, None), (None, None)]


async def test_entries_of_before_terms_went_with_the_event_are_read(
    store: Store, redis_server: EmbeddedRedis, reader: Any, tmp_path: Path
) -> None:
    """They have the terms beside the event, where the version before wrote them."""
    (event,) = clicks(0, 1)
    key = log_key(store.config, partition_of(event.session_id, store.config))
    with Redis.from_url(redis_server.url) as redis:
        redis.xadd(key, {"e": encode(event), "t": b'{"price":5.0,"category":["a"]}'})
    reader().drain()
    (path,) = tmp_path.glob("*/[!.]*.parquet")
    assert pl.read_parquet(path).select("price", "category").rows() == [(5.0, ["a"])]


async def test_what_was_accepted_is_in_files_and_no_longer_in_the_log(
    store: Store, reader: Any, tmp_path: Path
) -> None:
    """Each event once, those of a session in order of arrival; nothing is left to read."""
    await store.append(clicks(0, 300))
    assert (await store.lag()).events == 300
    stream = reader()
    stream.drain()
    assert sorted(held(tmp_path)) == ids(0, 300)
    assert stream.written == 300
    assert await store.lag() == Lag(0, None)
    await store.append([*clicks(300, 320), *clicks(0, 320)])
    reader().drain()
    assert sorted(held(tmp_path)) == ids(0, 320)


async def test_the_log_is_cut_only_behind_a_file(
    store: Store, reader: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where files cannot be written everything stays, and is delivered to whoever comes next."""
    await store.append(clicks(0, 100))

    def full(*_arguments: object) -> int:
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(Lake, "add", full)
        stream = reader()
        with pytest.raises(OSError, match="no space"):
            stream.drain()
        for partition in stream.lake.held:
            stream.lake.release(partition)
    assert (await store.lag()).events == 100
    reader().drain()
    assert sorted(held(tmp_path)) == ids(0, 100)


async def test_a_reader_that_dies_between_file_and_log_repeats_nothing(
    store: Store, reader: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is in a file but was not confirmed comes again, and is known."""
    await store.append(clicks(0, 100))
    stream = reader()

    def dies(*_arguments: object, **_options: object) -> None:
        raise Disconnected("killed")

    monkeypatch.setattr(stream, "_confirm", dies)
    with pytest.raises(StoreUnavailable, match="killed"):
        stream.drain()
    for partition in stream.lake.held:
        stream.lake.release(partition)
    before = len(held(tmp_path))
    assert before
    last = reader()
    last.drain()
    assert sorted(held(tmp_path)) == ids(0, 100)
    assert last.written == 100 - before
    assert await store.lag() == Lag(0, None)


async def test_an_answer_that_was_lost_comes_again(
    store: Store, reader: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis had delivered it, the reader never saw it; it reads on by itself."""
    await store.append(clicks(0, 100))
    stream = reader(every=0.05)
    original, calls = stream.redis.xreadgroup, []

    def lossy(*arguments: Any, **options: Any) -> Any:
        answer = original(*arguments, **options)
        calls.append(bool(answer and answer[0][1]))
        if calls[-1] and calls.count(True) <= 2:
            raise Disconnected("reset by peer")
        return answer

    monkeypatch.setattr(stream.redis, "xreadgroup", lossy)
    with running(stream):
        await until(lambda: sorted(held(tmp_path)) == ids(0, 100))
    assert calls.count(True) > 2
    assert sorted(held(tmp_path)) == ids(0, 100)


async def test_several_readers_share_the_partitions(
    store: Store, reader: Any, tmp_path: Path
) -> None:
    """Each has its part; what one leaves another takes over, and every event is written once."""
    first, second = reader(every=0.05), reader(every=0.05)
    with running(second):
        with running(first):
            for start in range(0, 600, 20):
                await store.append(clicks(start, start + 20))
                await anyio.sleep(0.05)
            await until(lambda: len(first.lake.held) == len(second.lake.held) == 2)
        await until(lambda: len(second.lake.held) == 4)
        await store.append(clicks(600, 700))
        while (await store.lag()).events:
            await anyio.sleep(0.02)
    assert sorted(held(tmp_path)) == ids(0, 700)
    assert first.written + second.written == 700


async def test_files_grow_while_events_come(store: Store, reader: Any, tmp_path: Path) -> None:
    """What came is in a file after the time that was asked for, without a stop."""
    with running(reader(every=0.2)):
        await store.append(clicks(0, 10))
        await until(lambda: sorted(held(tmp_path)) == ids(0, 10))
        await store.append(clicks(10, 20))
        await until(lambda: sorted(held(tmp_path)) == ids(0, 20))


async def test_a_redis_that_lost_everything_is_read_anew(
    store: Store, redis_server: EmbeddedRedis, reader: Any, tmp_path: Path
) -> None:
    """Its clock behind, too: what it accepts then is written although files reach further."""
    with running(reader(every=0.05)) as stream:
        await store.append(clicks(0, 50, sessions=1))
        await until(lambda: sorted(held(tmp_path)) == ids(0, 50))
        client: Redis = Redis.from_url(redis_server.url)
        for key in client.keys(f"{{{store.config.namespace}}}:*"):
            client.delete(key)
        partition = partition_of("s0", store.config)
        late = [encode(event) for event in clicks(50, 60, sessions=1)]
        for number, payload in enumerate(late, 1):
            client.xadd(log_key(store.config, partition), {"e": payload}, id=f"1000-{number}")
        await until(lambda: sorted(held(tmp_path)) == ids(0, 60))
        client.close()
    assert stream.written == 60


async def test_fewer_partitions_strand_nothing(
    redis_server: EmbeddedRedis, namespace: str, tmp_path: Path
) -> None:
    """What waits in those that are used no more is read and counted too."""
    many = Store(redis_server.url, StoreConfig(namespace, log_partitions=8, timeout=5.0))
    await many.append(clicks(0, 100, sessions=50))
    few = Store(redis_server.url, StoreConfig(namespace, log_partitions=2, timeout=5.0))
    assert (await few.lag()).events == 100
    await few.append(clicks(100, 120))
    Stream(redis_server.url, Lake(tmp_path), few.config).drain()
    assert sorted(held(tmp_path)) == ids(0, 120)
    assert await few.lag() == Lag(0, None)
    await many.close()
    await few.close()


async def test_a_full_redis_is_relieved(store: Store, reader: Any, tmp_path: Path) -> None:
    """Where it takes no more, reading goes on: it is what makes room."""
    await store.append(clicks(0, 50))
    stream = reader(every=0.05)
    refused = []

    def full(*_arguments: object, **_options: object) -> None:
        refused.append(1)
        raise OutOfMemoryError("command not allowed when used memory > 'maxmemory'")

    stream.redis.zadd = full
    with running(stream):
        await until(lambda: sorted(held(tmp_path)) == ids(0, 50))
    assert refused


async def test_a_destroyed_group_repeats_nothing(store: Store, reader: Any, tmp_path: Path) -> None:
    """What was read and not written yet comes again, once."""
    stream = reader(every=3600)
    await store.append(clicks(0, 60))
    while stream.turn():
        pass
    for number in range(4):
        stream.redis.xgroup_destroy(log_key(store.config, number), GROUP)
    stream.drain()
    assert sorted(held(tmp_path)) == ids(0, 60)


async def test_draining_beside_another_says_so(store: Store, reader: Any, tmp_path: Path) -> None:
    """What another process is to write is not passed off as written."""
    await store.append(clicks(0, 60))
    busy = reader(every=3600)
    busy.turn()
    with pytest.raises(OSError, match="another process writes 4 of the log's partitions"):
        reader().drain()
    busy.drain()
    assert sorted(held(tmp_path)) == ids(0, 60)


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"e": encode(clicks(2, 3)[0]), "consent": "1"}, "consent"),
        ({"e": encode(clicks(2, 3)[0])[:-1] + b',"currency":"EUR"}'}, "currency"),
    ],
)
async def test_what_a_newer_version_wrote_is_left_to_it(
    store: Store,
    reader: Any,
    tmp_path: Path,
    redis_server: EmbeddedRedis,
    monkeypatch: pytest.MonkeyPatch,
    fields: dict[Any, Any],
    what: str,
) -> None:
    """The older reader says so and goes; what came before is in files, the rest in the log."""
    await store.append(clicks(0, 2, sessions=1))
    old = reader()
    while old.turn():
        pass
    redis = Redis.from_url(redis_server.url)
    redis.xadd(log_key(store.config, partition_of("s0", store.config)), fields)
    with pytest.raises(NewerLogError, match=rf"newer version \(.*{what}.*update this reader"):
        old.run(threading.Event())
    assert old.lake.held == []
    assert held(tmp_path) == ["e0", "e1"]
    assert (await store.lag()).events == 1
    monkeypatch.setattr("recsys.stream.ENTRY_FIELDS", ENTRY_FIELDS | {b"consent"})
    monkeypatch.setattr("recsys.stream.decode", lambda payload: decode_known([payload])[0])
    reader().drain()
    assert held(tmp_path) == ["e0", "e1", "e2"]


@pytest.mark.parametrize("once", [True, False])
async def test_what_stands_before_a_newer_entry_is_written(
    store: Store, reader: Any, tmp_path: Path, redis_server: EmbeddedRedis, once: bool
) -> None:
    """In its partition, and all there is in the others; whoever drains lets go of them too."""
    await store.append(clicks(0, 21))
    redis = Redis.from_url(redis_server.url)
    redis.xadd(log_key(store.config, partition_of("s0", store.config)), {"e": b"{}", "new": "1"})
    stream = reader()
    with pytest.raises(NewerLogError):
        stream.drain() if once else stream.run(threading.Event())
    assert sorted(held(tmp_path)) == ids(0, 21)
    assert (await store.lag()).events == 1
    assert stream.lake.held == []


async def test_events_cut_from_the_log_are_told_of(
    store: Store, reader: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Where somebody else cut what was delivered, reading goes on and the loss is logged."""
    await store.append(clicks(0, 40, sessions=1))
    config = store.config
    partition = next(p for p in range(4) if reader().redis.xlen(log_key(config, p)))
    client: Redis = reader().redis
    key = log_key(config, partition)
    client.xgroup_create(key, GROUP, id="0")
    client.xreadgroup(GROUP, f"partition-{partition}", {key: ">"}, count=10)
    client.xtrim(key, maxlen=35, approximate=False)
    reader().drain()
    assert sorted(held(tmp_path)) == ids(5, 40)
    assert "5 events were cut" in caplog.text
    assert client.xpending(key, GROUP)["pending"] == 0


async def until(condition: Any, seconds: float = 60.0) -> None:
    """Wait for something to become true."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        await anyio.sleep(0.02)
