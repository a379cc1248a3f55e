"""The store on a real server: atomic batches, counted once, capped, and one round trip each."""

import asyncio
import contextlib
import os
import resource
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
from redis import Redis

from recsys.embedded import EmbeddedRedis
from recsys.events import Event, InputError, decode
from recsys.lake import Lake
from recsys.probation import Counts
from recsys.store import (
    CODE,
    QUALITY_TTL,
    Appended,
    Lag,
    Library,
    Live,
    Store,
    StoreConfig,
    StoreRefusal,
    StoreUnavailable,
    StoreUrlError,
    _refusal,
    check_url,
    log_key,
    partition_of,
    redacted,
)
from recsys.stream import Stream

pytestmark = pytest.mark.anyio


def click(item: str, session: str = "s", at: float = 0.0, **fields: str) -> Event:
    return Event("click", session, item, timestamp=at, **fields)  # type: ignore[arg-type]


def items(events: list[Event]) -> list[str | None]:
    return [event.item_id for event in events]


async def test_what_was_appended_is_read_back(store: Store) -> None:
    """Every field of an event survives, in order of arrival, and the version counts events."""
    full = Event(
        "rating",
        "s ü",
        "i/1",
        user_id="u",
        event_id="e",
        timestamp=1.5,
        value=4.5,
        recommendation_id="r",
        position=3,
        properties={"a": [1, {"b": None}]},
    )
    first = await store.append([full, click("i2", "s ü", at=0.5)])
    assert first == Appended(2, 0, {"s ü": 2})
    live = await store.read("s ü", None)
    assert live.events[0] == full
    assert items(live.events) == ["i/1", "i2"]
    assert (live.version, live.user_id) == (2, "u")


async def test_terms_that_an_event_says_itself_are_not_kept(store: Store) -> None:
    """They are the catalogue's, or none: an event that comes from elsewhere may hold older ones."""
    await store.put_items([("known", {"price": 5.0})])
    told = {"terms": {"price": 1.0}}
    await store.append([Event("view", "s", item, **told) for item in ("known", "other")])
    assert [e.terms for e in (await store.read("s", None)).events] == [{"price": 5.0}, {}]


async def test_an_event_id_counts_once(store: Store) -> None:
    """Duplicates, in one batch or later, change nothing, but their session's version is told."""
    event = click("a", event_id="e1")
    assert await store.append([event, event, click("b")]) == Appended(2, 1, {"s": 2})
    assert await store.append([event]) == Appended(0, 1, {"s": 2})
    assert items((await store.read("s", None)).events) == ["a", "b"]


async def test_events_without_an_id_get_a_fresh_one(store: Store) -> None:
    """Two equal events without ids are two events, each with an id of its own."""
    assert (await store.append([click("a"), click("a")])).accepted == 2
    ids = {event.event_id for event in (await store.read("s", None)).events}
    assert len(ids) == 2
    assert None not in ids


async def test_lists_are_capped(store: Store) -> None:
    """Only the last events of a session and of a user are kept; versions count all."""
    await store.append([click(str(k), user_id="u") for k in range(12)])
    live = await store.read("s", None)
    assert live.version == 12
    assert items(live.events) == ["7", "8", "9", "10", "11"]
    assert items(live.user_events) == [str(k) for k in range(4, 12)]


async def test_impressions_do_not_push_clicks_out(store: Store, redis: Redis) -> None:
    """Impressions and searches count and are logged, but take no place in the session."""
    await store.append([click("a", user_id="u")])
    shown = [Event("impression", "s", f"i{k}") for k in range(20)] + [Event("search", "s")]
    assert (await store.append(shown)).versions == {"s": 22}
    live = await store.read("s", None)
    assert items(live.events) == items(live.user_events) == ["a"]
    assert await store.lag() == Lag(22, pytest.approx(time.time(), abs=60))


async def test_the_log_holds_every_accepted_event(store: Store, redis: Redis) -> None:
    """The live log has each accepted event once, as JSON, with the user its session is known by."""
    await store.append([click("a"), click("b", user_id="u"), click("c"), click("x", event_id="e")])
    await store.append([click("x", event_id="e")])
    key = log_key(store.config, partition_of("s", store.config))
    entries = [fields for _, fields in redis.xrange(key)]
    assert [decode(fields[b"e"]).item_id for fields in entries] == ["a", "b", "c", "x"]
    assert [fields.get(b"u") for fields in entries] == [None, b"u", b"u", b"u"]


async def test_everything_expires(store: Store, redis: Redis) -> None:
    """Sessions, users and remembered event ids have their times to live."""
    await store.append([click("a", user_id="u", event_id="e"), Event("search", "only-search")])
    prefix, config = f"{{{store.config.namespace}}}:", store.config
    expected = {
        "session:s:events": config.session_ttl,
        "session:s:meta": config.session_ttl,
        "session:only-search:meta": config.session_ttl,
        "session:s:users": 2 * config.user_ttl,
        "user:u:events": config.user_ttl,
        "user:u:swept": config.user_ttl,
        "seen:e": config.dedup_ttl,
    }
    for key, ttl in expected.items():
        assert ttl - 10 <= redis.ttl(prefix + key) <= ttl
    keys = {key.decode().removeprefix(prefix) for key in redis.keys(f"{prefix}*")}
    logs = {f"log:{partition_of(session, config)}" for session in ("s", "only-search")}
    assert keys == {*expected, *logs, "aggregates"}


async def test_a_log_that_nobody_reads_is_cut(
    redis_server: EmbeddedRedis, namespace: str, redis: Redis
) -> None:
    """To about its greatest length, from the oldest on; once it has readers, never."""
    store = Store(redis_server.url, StoreConfig(namespace, log_maxlen=400, timeout=5.0))
    batch = [click(str(k), session=f"s{k}") for k in range(1000)]
    await store.append(batch)
    assert (await store.lag()).events < 900
    redis.set(log_key(store.config, "reading"), "")
    before = (await store.lag()).events
    await store.append(batch)
    assert (await store.lag()).events == before + 1000
    await store.close()


async def test_versions_have_no_gaps_under_concurrency(store: Store) -> None:
    """Of many writers to one session each is told a version of its own; none is lost."""
    answers = await asyncio.gather(*(store.append([click(str(k))]) for k in range(200)))
    assert sorted(answer.versions["s"] for answer in answers) == list(range(1, 201))


async def test_one_id_from_many_writers_counts_once(store: Store) -> None:
    """Of concurrent deliveries of one event exactly one is accepted."""
    answers = await asyncio.gather(*(store.append([click("a", event_id="e")]) for _ in range(50)))
    assert sum(answer.accepted for answer in answers) == 1
    assert (await store.read("s", None)).version == 1


async def test_each_call_is_one_round_trip(store: Store, redis: Redis) -> None:
    """A batch of any size, a read, an identify: one command each on the wire."""
    await store.append([click("a")])
    await store.read("s", None)
    await store.identify("s", "u")
    before = redis.info("commandstats")
    await store.append([click(str(k), f"s{k % 7}", user_id="u") for k in range(500)])
    await store.read("s1", "u")
    await store.identify("s1", "v")
    after = redis.info("commandstats")
    assert after["cmdstat_fcall"]["calls"] - before["cmdstat_fcall"]["calls"] == 3
    for name in ("eval", "evalsha", "multi", "get", "ping", "function|load"):
        assert after.get(f"cmdstat_{name}") == before.get(f"cmdstat_{name}")


async def test_the_library_returns_after_the_server_forgot_it(store: Store, redis: Redis) -> None:
    """A restarted server that was not told the library, or lost it, is served without an error."""
    await store.append([click("a")])
    redis.function_flush()
    assert (await store.append([click("b")])).versions == {"s": 2}
    redis.function_flush()
    assert (await store.read("s", None)).version == 2
    redis.function_flush()
    await asyncio.gather(*(store.append([click(str(k))]) for k in range(9)))
    assert (await store.read("s", None)).version == 11


async def test_versions_of_the_library_stand_side_by_side(
    store: Store, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While workers are replaced by those of another version, both call their own."""
    await store.append([click("a")])
    monkeypatch.setattr("recsys.store.LIBRARY", Library.of(f"-- newer\n{CODE}"))
    assert (await store.append([click("b")])).versions == {"s": 2}
    monkeypatch.undo()
    before = redis.info("commandstats")
    assert (await store.append([click("c")])).versions == {"s": 3}
    after = redis.info("commandstats")
    assert after["cmdstat_function|load"] == before["cmdstat_function|load"]


async def test_namespaces_do_not_mix_in_one_library(
    store: Store, redis_server: EmbeddedRedis
) -> None:
    """What the library keeps from call to call is of one prefix at a time."""
    other = Store(redis_server.url, StoreConfig("elsewhere"))
    await store.append([click("a")])
    await other.append([click("x")])
    await store.append([click("b")])
    assert items((await other.read("s", None)).events) == ["x"]
    assert items((await store.read("s", None)).events) == ["a", "b"]
    await other.forget("s")
    await other.close()


def test_a_redis_without_functions_is_told() -> None:
    """One older than version 7 does not know what is asked of it."""
    assert _refusal("ERR unknown command `FCALL`, with args beginning with: `recsys_1`, `1`, ") == (
        "Redis refuses: it is older than version 7: functions are needed (or Valkey)"
    )


async def test_identify_joins_a_session_to_a_user(store: Store) -> None:
    """What an anonymous session did becomes the user's, once; what it does later follows."""
    await store.append([click("old", "earlier", user_id="u"), click("a"), click("b")])
    assert await store.identify("s", "u") == (2, 2)
    assert await store.identify("s", "u") == (0, 2)
    await store.append([click("c")])
    live = await store.read("s", None)
    assert (live.user_id, items(live.events)) == ("u", ["a", "b", "c"])
    assert items(live.user_events) == ["old", "a", "b", "c"]


async def test_an_event_with_a_user_identifies_its_session(store: Store) -> None:
    """A login in the middle of a session carries the clicks before it along."""
    await store.append([click("a"), click("b", user_id="u"), click("c")])
    assert items((await store.read(None, "u")).user_events) == ["a", "b", "c"]


async def test_another_user_takes_over_from_here(store: Store) -> None:
    """Naming another user moves on: what was recorded stays with the former."""
    await store.append([click("a", user_id="u")])
    await store.identify("s", "v")
    await store.append([click("b")])
    assert items((await store.read(None, "u")).user_events) == ["a"]
    assert items((await store.read("s", None)).user_events) == ["b"]


async def test_reading_prefers_the_user_asked_for(store: Store) -> None:
    """The user's events are those of the user given, else of the session's known user."""
    await store.append([click("a", "s", user_id="u"), click("b", "t", user_id="v")])
    assert items((await store.read("s", "v")).user_events) == ["b"]
    assert await store.read("unknown", None) == Live()
    assert await store.read(None, None) == Live()


async def test_forget_leaves_nothing_of_the_session(store: Store) -> None:
    """A forgotten session is gone, from its user's events too; other sessions stay."""
    await store.append([click("a", user_id="u"), click("b", "t", user_id="u")])
    assert await store.forget("s")
    assert await store.read("s", None) == Live()
    assert items((await store.read(None, "u")).user_events) == ["b"]
    assert not await store.forget("s")


async def test_forget_covers_every_user_a_session_had(store: Store) -> None:
    """A session that passed from user to user leaves the lists of all of them."""
    await store.append([click("x", "other", user_id="a")])
    await store.identify("s", "a")
    await store.append([click("1")])
    await store.identify("s", "b")
    await store.append([click("2"), click("3", user_id="c")])
    assert await store.forget("s")
    left = [items((await store.read(None, user)).user_events) for user in "abc"]
    assert left == [["x"], [], []]


async def test_forget_needs_nothing_of_the_session_itself(store: Store, redis: Redis) -> None:
    """What a user's list holds of a session is found after the session was capped and expired."""
    await store.append([click(str(k), user_id="u") for k in range(8)])  # three more than its cap
    await store.append([click("x", "other", user_id="u")])
    prefix = f"{{{store.config.namespace}}}:session:s:"
    assert redis.delete(prefix + "events", prefix + "meta") == 2
    assert await store.forget("s")
    assert items((await store.read(None, "u")).user_events) == ["x"]
    assert not await store.forget("s")


async def test_an_old_session_of_an_active_user_can_be_forgotten(
    store: Store, redis: Redis
) -> None:
    """While a user's list lives on, the way from its sessions to it is renewed."""
    await store.append([click("a", user_id="u")])
    users = f"{{{store.config.namespace}}}:session:s:users"
    redis.expire(users, 1000)  # as if it were long ago
    redis.delete(f"{{{store.config.namespace}}}:user:u:swept")
    await store.append([click("b", "new", user_id="u")])
    assert redis.ttl(users) > store.config.user_ttl
    assert await store.forget("s")
    assert items((await store.read(None, "u")).user_events) == ["b"]


async def test_namespaces_are_apart(store: Store, redis_server: EmbeddedRedis) -> None:
    """Two engines on one Redis see nothing of each other."""
    other = Store(redis_server.url, StoreConfig(namespace=store.config.namespace + "-2"))
    await store.append([click("a", event_id="e")])
    assert (await other.append([click("b", event_id="e")])).versions == {"s": 1}
    assert items((await store.read("s", None)).events) == ["a"]
    await other.close()


async def test_keys_share_one_cluster_slot(store: Store, redis: Redis) -> None:
    """All keys hash by the namespace alone, whatever an id contains."""
    await store.append([click("a", "{x}", user_id="}u{", event_id="{e}")])
    await store.append([click("b", "{y}{")])
    keys = redis.keys(f"{{{store.config.namespace}}}:*")
    tags = {key[key.index(b"{") + 1 : key.index(b"}")].decode() for key in keys}
    assert tags == {store.config.namespace}
    assert items((await store.read("{y}{", None)).events) == ["b"]
    with pytest.raises(InputError, match="without braces"):
        StoreConfig(namespace="a}b")


async def test_nobody_there_fails_at_once(tmp_path: Path) -> None:
    """Without a server calls fail quickly, and for a second not even a try is made."""
    store = Store(f"unix://{tmp_path}/none.sock")
    with pytest.raises(StoreUnavailable, match="cannot be reached"):
        await store.ping()
    start = time.perf_counter()
    for _ in range(100):
        with pytest.raises(StoreUnavailable, match="a moment ago"):
            await store.append([click("a")])
    assert time.perf_counter() - start < 0.2
    await store.close()


async def test_a_hanging_server_costs_the_time_limit_once(tmp_path: Path) -> None:
    """A server that does not answer costs one time limit; it is used again once it does."""
    with EmbeddedRedis.start(tmp_path) as server:
        store = Store(server.url, StoreConfig(timeout=0.1))
        await store.append([click("a")])
        os.kill(server.pid, signal.SIGSTOP)
        start = time.perf_counter()
        with pytest.raises(StoreUnavailable, match=r"within 0\.1 s"):
            await store.read("s", None)
        with pytest.raises(StoreUnavailable):
            await store.read("s", None)
        assert time.perf_counter() - start < 0.2
        os.kill(server.pid, signal.SIGCONT)
        await asyncio.sleep(1.1)
        assert (await store.read("s", None)).version == 1
        await store.close()


async def test_events_go_on_before_lists(tmp_path: Path) -> None:
    """Of answers that come together those to events are handed on first: less follows from them."""
    with EmbeddedRedis.start(tmp_path) as server:
        store, done = Store(server.url, StoreConfig(timeout=20)), list[str]()
        await store.append([click("a")])

        async def read() -> None:
            await store.read("s", None)
            done.append("list")

        async def append() -> None:
            await store.append([click("b")])
            done.append("event")

        os.kill(server.pid, signal.SIGSTOP)
        try:
            calls = [asyncio.create_task(call()) for call in (read, append, read, append)]
            await asyncio.sleep(0.1)
        finally:
            os.kill(server.pid, signal.SIGCONT)
        await asyncio.gather(*calls)
        assert done == ["event", "event", "list", "list"]
        await store.close()


async def test_a_refused_write_does_not_stop_reads(tmp_path: Path) -> None:
    """A server that takes no writes (out of memory, disk full) still answers reads."""
    with EmbeddedRedis.start(tmp_path) as server, Redis.from_url(server.url) as redis:
        store = Store(server.url, StoreConfig(timeout=2))
        await store.append([click("a")])
        redis.config_set("maxmemory", 1)
        with pytest.raises(StoreRefusal, match=r"does not take writes: .*'maxmemory'\.?$"):
            await store.append([click("b")])
        live = await store.read("s", None)
        assert (live.version, items(live.events)) == (1, ["a"])
        assert await store.sweep("none", "0", 0.0, 10) == "0"
        assert await store.forget("s")  # what makes room is done
        redis.config_set("maxmemory", 0)
        redis.replicaof("127.0.0.1", 1)
        with pytest.raises(StoreRefusal, match=r"does not take writes: .* read only replica"):
            await store.append([click("b")])
        await store.close()


@pytest.mark.parametrize("flaw", ["memory", "replica"])
async def test_reads_go_on_where_the_library_cannot_be_told(tmp_path: Path, flaw: str) -> None:
    """As after an upgrade, while the server takes no writes; what it says of them is passed on."""
    with EmbeddedRedis.start(tmp_path) as server, Redis.from_url(server.url) as redis:
        store = Store(server.url, StoreConfig(timeout=2))
        await store.append([click("a")])
        redis.function_flush()
        if flaw == "memory":
            redis.config_set("maxmemory", 1)
        else:
            redis.replicaof("127.0.0.1", 1)
        live = await store.read("s", None)
        assert (live.version, items(live.events)) == (1, ["a"])
        stream = Stream(server.url, Lake(tmp_path / "lake"), store.config)
        assert stream.quality("none") == (0, 0)
        with pytest.raises(
            StoreRefusal, match=r"does not take writes: .*('maxmemory'|replica)\.?$"
        ):
            await store.append([click("b")])
        await store.close()


async def test_a_full_disk_is_told_and_passes(tmp_path: Path) -> None:
    """A server that cannot write its file says so in every answer until it can again."""
    with EmbeddedRedis.start(tmp_path) as server:
        store = Store(server.url, StoreConfig(timeout=2))
        await store.append([click("a")])
        no_growth = (0, resource.RLIM_INFINITY)
        resource.prlimit(server.pid, resource.RLIMIT_FSIZE, no_growth)
        await store.append([click("b")])  # noticed by this one's write, after its answer
        said = "^Redis does not take writes: Errors writing to the AOF file: File too large$"
        with pytest.raises(StoreRefusal, match=said):
            await store.append([click("c")])
        assert (await store.read("s", None)).version == 2
        unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
        resource.prlimit(server.pid, resource.RLIMIT_FSIZE, unlimited)
        await asyncio.sleep(1.5)  # it tries again every second
        assert (await store.append([click("c")])).versions == {"s": 3}
        await store.close()


async def test_other_refusals_keep_their_words(store: Store) -> None:
    """What Redis does not like about a command is told as it says it."""
    with pytest.raises(StoreRefusal, match=r"^Redis refuses: unknown command 'NONE'"):
        await store._link.call("NONE")


@pytest.mark.parametrize(
    "url", ["", "localhost:6379", "http://localhost", "redis://", "redis://h:x", "unix://"]
)
async def test_a_malformed_url_is_explained(url: str) -> None:
    """What is no Redis URL is refused with the forms that are."""
    with pytest.raises(StoreUrlError, match="expected redis://HOST:PORT/DB"):
        Store(url)


async def test_passwords_stay_out_of_messages() -> None:
    """Messages show a URL without its password."""
    assert redacted("redis://u:secret@h:1/0") == "redis://u:***@h:1/0"
    assert check_url("redis://:p@h:6379/0") == "redis://:p@h:6379/0"


async def test_live_quality_adds_up_and_is_kept_for_a_while(store: Store, redis: Redis) -> None:
    """By bundle; and by probation, where one event of a visitor counts, until it has ended."""
    for visitor, new, old in (("v", 1, 0), ("v", 0, 1), ("w", 0, 1), ("x", 1, 1), ("y", 0, 0)):
        await store.score({"new": bool(new), "old": bool(old)}, "p", visitor)
    await store.score({"new": True})
    assert await store.quality(["new", "old", "?"]) == {"new": (6, 3), "old": (5, 3), "?": (0, 0)}
    found = Counts(scored=5, own_hits=2, former_hits=3, own_only=1, former_only=1)
    assert await store.probation("p") == found
    assert await store.probation("?") == Counts()
    names = ("quality:new", "quality:old", "probation:p", "probation:p:visitors")
    keys = [f"{{{store.config.namespace}}}:{name}" for name in names]
    assert all(0 < redis.ttl(key) <= QUALITY_TTL for key in keys)
    for how in ("worse", "kept"):
        await store.end_probation("p", how)
        await store.score({"new": True, "old": False}, "p", "z")
    assert await store.probation("p") == replace(found, ended="worse")
    assert not redis.exists(keys[-1])


async def test_what_the_server_says_by_itself_is_no_answer(
    store: Store, redis_server: EmbeddedRedis, redis: Redis
) -> None:
    """Pushed between calls and while one waits: answers stay those of their calls."""
    await store._link.call("HELLO", 3)
    await store._link.call("CLIENT", "TRACKING", "ON", "BCAST")
    for k in range(20):
        redis.set(f"{{{store.config.namespace}}}:pushed", k)
        assert await store._link.call("ECHO", str(k)) == str(k).encode()
        await asyncio.sleep(0.002)
        answers = [store._link.call("ECHO", f"{k}-{n}") for n in range(3)]
        assert await asyncio.gather(*answers) == [f"{k}-{n}".encode() for n in range(3)]


async def test_a_store_that_is_closed_at_once_leaves_nothing(redis_server: EmbeddedRedis) -> None:
    """In the turn in which it connected, or while it did."""
    store = Store(redis_server.url)
    await store.ping()
    await store.close()
    store = Store(redis_server.url)
    asking = asyncio.create_task(store.ping())
    await asyncio.sleep(0)
    await store.close()
    with contextlib.suppress(StoreUnavailable):
        await asking
    assert store._link._transport is None
    with pytest.raises(StoreUnavailable):
        await store.ping()


async def test_what_cannot_be_sent_disturbs_no_other_call(store: Store) -> None:
    """Half a character is no text; answers to later calls are their own."""
    with pytest.raises(UnicodeEncodeError):
        await store.item("\ud800")
    await store.append([Event("view", "s", "i1", timestamp=1.0)])
    assert [event.item_id for event in (await store.read("s", None)).events] == ["i1"]
    assert await store.item("i1") is None
