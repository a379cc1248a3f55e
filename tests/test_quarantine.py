"""Sessions of suspicious traffic count for nobody but themselves, until they are released."""

import asyncio
import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from msgspec import structs
from prometheus_client import REGISTRY
from redis import Redis

from api.telemetry import events_recorded
from recsys.aggregate_log import LogFold
from recsys.aggregates import Aggregates, for_everybody
from recsys.cli import main
from recsys.embedded import EmbeddedRedis
from recsys.events import Event
from recsys.lake import Lake
from recsys.logs import LogError, load_log
from recsys.mirror import mirrored
from recsys.quarantine import Mark, left_out, marks
from recsys.store import Store, partition_of
from recsys.stream import Stream
from tests.test_mirror import CONFIG, DECLARED, accept, frame_of, some_events

pytestmark = pytest.mark.anyio

# What a last value was before cannot be told, and what is kept for the visitor itself goes on.
TAKEN_OUT = tuple(a for a in DECLARED if for_everybody(a) and a.kind != "last_value")
NOW = 1.8e9


def limited(
    store: Store, velocity: float = 1e9, repetition: int = 10**9, alike: int = 10**9
) -> Store:
    limits = {"max_velocity": velocity, "max_repetition": repetition, "max_alike": alike}
    store.config = replace(store.config, **limits, session_cap=100)
    return store


def clicks(session: str, items: str, at: float = 1.7e9) -> list[Event]:
    return [
        Event("click", session, item, event_id=f"{session}{at}{k}", timestamp=at + 10.0 * k)
        for k, item in enumerate(items)
    ]


async def names(store: Store) -> set[str]:
    return {suspect.session_id for suspect in await store.quarantined()}


def assert_counts(stream: Aggregates, events: Sequence[Event]) -> None:
    """What everybody is shown is what a log of these events gives, at the stream's moment."""
    log = LogFold(frame_of(events), TAKEN_OUT, CONFIG.events).advance()
    log.moment = stream.moment
    for aggregate in TAKEN_OUT:
        found, wanted = (
            {k: v for k, v in state.named(aggregate) if abs(v) > 1e-12} for state in (stream, log)
        )
        if aggregate.kind == "ratio":  # of a row without events it is the prior
            found = {k: v for k, v in found.items() if k in wanted}
        assert found == pytest.approx(wanted, abs=1e-9), aggregate.name


async def test_a_session_that_is_too_fast(store: Store) -> None:
    """By arrival, whatever times it claims; the same number of events spread out is not."""
    limited(store, velocity=5)
    for k in range(6):
        fast = structs.replace(clicks("fast", "abcdef")[k], timestamp=1.7e9 + 3600 * k)
        slow = clicks("slow", "abcdef")[k]
        await store.append([fast], now=NOW + k)
        appended = await store.append([slow], now=NOW + 60 * k)
        assert appended.quarantined == 0
    (suspect,) = await store.quarantined()
    assert (suspect.session_id, suspect.since, suspect.repetition) == ("fast", NOW + 5, 1)
    assert 5 < suspect.velocity < 6


async def test_a_session_that_repeats_itself(store: Store) -> None:
    """However slowly. What it only looks past, and what was delivered again, does not count."""
    limited(store, repetition=3)
    seen = [structs.replace(e, type="impression") for e in clicks("honest", "aaaaaaa", 1.6e9)]
    await store.append([*seen, *clicks("honest", "aaabbb"), *clicks("honest", "aaabbb")])
    assert not await names(store)
    for k, event in enumerate(clicks("bot", "baaaa")):
        appended = await store.append([event], now=NOW + 3600 * k)
    assert appended.quarantined == 1
    assert await names(store) == {"bot"}
    assert len((await store.read("bot", None)).events) == 5
    name = "recsys_quarantined_sessions_total"
    before = REGISTRY.get_sample_value(name) or 0
    events_recorded(appended, 0)
    assert REGISTRY.get_sample_value(name) == before + 1


async def test_a_session_of_nothing_else(store: Store) -> None:
    """Five views of one item are suspicious; not with a purchase or another item among them."""
    limited(store, alike=4)
    for session, items in (("bot", "aaaaa"), ("patient", "aaaa"), ("visitor", "baaaaaa")):
        await store.append([Event("search", session), *clicks(session, items)], now=NOW)
    bought = clicks("buyer", "aaaaaa")
    bought[2] = structs.replace(bought[2], type="purchase")
    await store.append(bought, now=NOW)
    (suspect,) = await store.quarantined()
    assert (suspect.session_id, suspect.repetition, suspect.reason) == ("bot", 5, "alike")


async def test_one_that_does_something_else_after_all(
    store: Store, redis_server: EmbeddedRedis, tmp_path: Path
) -> None:
    """Counts again by itself, in the lake too; one that repeated itself too often does not."""
    limited(store, repetition=7, alike=4)
    await mirrored(store, CONFIG)
    keen, bot = clicks("keen", "aaaaaaba"), clicks("bot", "aaaaaaaab")
    for events in (keen, bot):
        for event in events[:-2]:
            await store.append([event], now=NOW)
    assert await names(store) == {"keen", "bot"}
    assert_counts((await mirrored(store, CONFIG, declare=False)).state, [])
    for event in (*keen[-2:], *bot[-2:]):
        await store.append([event], now=NOW)
    (suspect,) = await store.quarantined()
    assert (suspect.session_id, suspect.reason) == ("bot", "repetition")
    assert_counts((await mirrored(store, CONFIG, declare=False)).state, keen)
    Stream(redis_server.url, Lake(tmp_path), store.config).drain()
    assert left_out(tmp_path) == {"bot"}
    more = clicks("keen", "aa", 1.7e9 + 1000)
    await store.append(more, now=NOW)
    assert await names(store) == {"keen", "bot"}


async def test_one_that_was_too_fast_stays(store: Store) -> None:
    """Whatever it does later, and also where it did one thing at first."""
    limited(store, velocity=10, alike=4)
    await store.append(clicks("first", "a" * 15), now=NOW)
    await store.append(clicks("late", "a" * 5), now=NOW)
    await store.append(clicks("late", "a" * 15, 1.7e9 + 500), now=NOW)
    for session in ("first", "late"):
        await store.append(clicks(session, "ab", 1.7e9 + 1000), now=NOW + 600)
    found = {suspect.session_id: suspect.reason for suspect in await store.quarantined()}
    assert found == {"first": "velocity", "late": "velocity"}


async def test_one_that_comes_back_with_something_else(store: Store, redis: Redis) -> None:
    """Counts again although the store has forgotten what it did before."""
    limited(store, alike=4)
    await store.append(clicks("s", "aaaaa"), now=NOW)
    await store.forget("s")
    await store.append(clicks("s", "a", 1.7e9 + 500), now=NOW + 500)
    assert await names(store) == {"s"}
    await store.append(clicks("s", "b", 1.7e9 + 600), now=NOW + 600)
    assert not await names(store)


async def test_what_counted_once_is_known_as_long_as_the_session(
    store: Store, redis: Redis
) -> None:
    """Also what it counted long ago is taken out, and counts once when it is let out."""
    limited(store, alike=4)
    await mirrored(store, CONFIG)
    await store.append(clicks("s", "aa"), now=NOW)
    keys = list(redis.scan_iter(f"{{{store.config.namespace}}}:*:once:s"))
    assert keys
    for key in keys:
        assert redis.ttl(key) > store.config.session_ttl - 100
        redis.expire(key, 50)
    await store.append([Event("impression", "s", "c", timestamp=1.7e9 + 100)], now=NOW)
    assert all(redis.ttl(key) > store.config.session_ttl - 100 for key in keys)


async def test_a_session_is_not_forgotten_while_it_goes_on(store: Store, redis: Redis) -> None:
    """Else what never counted would be taken out when it is found the next time."""
    limited(store, repetition=3)
    store.config = replace(store.config, user_ttl=1000)
    await mirrored(store, CONFIG)
    for k in range(30):
        await store.append(clicks("bot", "a", 1.7e9 + k), now=NOW + 100 * k)
        await store.append(clicks("other", "aaaa", 1.7e9 + k), now=NOW + 100 * k)
    assert "bot" in await names(store)
    assert_counts((await mirrored(store, CONFIG, declare=False)).state, [])


@pytest.mark.parametrize("seed", range(6))
async def test_what_it_counted_is_taken_out_and_comes_back(store: Store, seed: int) -> None:
    """Of every kind, as if it had never been; released, as if it had never been away."""
    limited(store, repetition=3 + seed % 3)
    await mirrored(store, CONFIG)
    mirror = await mirrored(store, CONFIG)
    events = some_events(90, seed)
    for at in range(0, len(events), 7):
        await accept(store, [*events[at : at + 7], *events[at : at + 2]])
    out = await names(store)
    assert out
    assert await mirror.catch_up(store) is not None
    assert_counts(mirror.state, [e for e in events if e.session_id not in out])
    released = sorted(out)[0]
    assert await store.release(released)
    assert not await store.release(released)
    later = some_events(30, 100 + seed)
    await accept(store, later)
    out = await names(store)
    assert released not in out
    assert await mirror.catch_up(store) is not None
    assert_counts(mirror.state, [e for e in [*events, *later] if e.session_id not in out])


async def test_what_is_its_own_goes_on(store: Store) -> None:
    """A visitor in quarantine still has answers that follow what it does."""
    limited(store, repetition=2)
    mirror = await mirrored(store, CONFIG)
    await store.append(clicks("bot", "aaaaaa"))
    live = await store.read("bot", None)
    assert mirror.own(live.own)["of_session"] == 0  # the moment is what honest events say
    assert len(live.events) == 6
    state = (await mirrored(store, CONFIG, everything=True)).state
    assert state.moment == 1.7e9 + 10
    state.moment = 1.7e9 + 60
    assert state.own("bot", None)["of_session"] == 6


async def test_neither_training_nor_what_is_filled_in_has_it(
    store: Store, redis_server: EmbeddedRedis, tmp_path: Path
) -> None:
    """The lake holds all events; a log of it leaves them out until the session is released."""
    limited(store, repetition=3)
    url = redis_server.url
    honest, bot = clicks("honest", "abcab"), clicks("bot", "abaaaaab")
    await mirrored(store, replace(CONFIG, aggregate=()))
    await store.append([*honest, *bot[:6]])
    await mirrored(store, CONFIG)
    await store.append(bot[6:])
    Stream(url, Lake(tmp_path), store.config).drain()
    assert left_out(tmp_path) == {"bot"}
    log = load_log([tmp_path])
    assert (log.read, log.kept, log.rejected) == (13, 5, {"quarantined": 8})
    assert_counts((await mirrored(store, CONFIG, declare=False)).state, honest)
    await store.release("bot")
    Stream(url, Lake(tmp_path), store.config).drain()
    assert load_log([tmp_path]).kept == 13
    assert_counts((await mirrored(store, CONFIG, declare=False)).state, [*honest, *bot])


async def test_one_found_after_a_declaration_is_not_filled_in(
    store: Store, redis_server: EmbeddedRedis, tmp_path: Path
) -> None:
    """What it did before is taken out before it is filled in, or never counted at all."""
    limited(store, repetition=3)
    honest, bot = clicks("honest", "abcab"), clicks("bot", "abaaaaab")
    await mirrored(store, replace(CONFIG, aggregate=()))
    await store.append([*honest, *bot[:3]])
    await mirrored(store, CONFIG)
    await store.append(bot[3:])
    Stream(redis_server.url, Lake(tmp_path), store.config).drain()
    assert_counts((await mirrored(store, CONFIG, declare=False)).state, honest)


def test_marks_are_written_once_and_read_as_of_a_place(tmp_path: Path) -> None:
    """What is delivered again changes nothing; a damaged file is named with its remedy, and is no
    matter while nothing is to be marked."""
    lake = Lake(tmp_path)
    lake.take(0)
    inside = Mark((5, 0), "s ü", velocity=70.5, repetition=3)
    lake.mark(0, [inside])
    lake.mark(0, [inside, Mark((9, 0), "s ü", released=True)])
    lake.release(0)
    (path,) = tmp_path.glob("_quarantine-*")
    assert marks(path)[0] == inside
    assert len(marks(path)) == 2
    assert [left_out(tmp_path, 0, (k, 0)) for k in (4, 5, 9)] == [set(), {"s ü"}, set()]
    path.write_text("{}\n")
    with pytest.raises(OSError, match=r"line 1 is no mark.*mend or remove it"):
        left_out(tmp_path)
    lake.take(0)
    lake.mark(0, [])
    with pytest.raises(OSError, match=r"line 1 is no mark.*mend or remove it"):
        lake.mark(0, [inside])
    lake.release(0)


def test_a_mark_that_was_not_written_whole_is_written_again(tmp_path: Path) -> None:
    """A writer that is killed leaves half a line, which is no mark and is not kept; nor is what
    somebody did to the file meanwhile overwritten."""
    lake = Lake(tmp_path)
    lake.take(0)
    first, second, third = (Mark((k, 0), f"s{k}", velocity=70.5, repetition=3) for k in range(3))
    lake.mark(0, [first])
    (path,) = tmp_path.glob("_quarantine-*")
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:20])
    assert marks(path) == [first]
    lake.mark(0, [second, second])
    assert marks(path) == [first, second]
    path.write_bytes(whole)
    lake.mark(0, [first, second, third])
    assert marks(path) == [first, second, third]
    path.unlink()
    lake.mark(0, [third])
    assert marks(path) == [third]
    lake.mark(0, [third])
    assert marks(path) == [third]
    path.write_bytes(whole[:-1])  # as editors leave it
    assert marks(path) == [first]
    lake.mark(0, [second])
    assert marks(path) == [first, second]
    path.write_bytes(path.read_bytes().replace(b'"s1"', b'"x1"'))
    lake.look_again()
    lake.mark(0, [second])
    assert [mark.session_id for mark in marks(path)] == ["s0", "x1", "s1"]
    lake.release(0)


def test_marks_that_could_not_be_flushed_are_flushed_the_next_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before they count as there: the log lets go of them then."""
    lake, flushed = Lake(tmp_path), list[int]()
    lake.take(0)

    def fsync(descriptor: int) -> None:
        flushed.append(descriptor)
        if len(flushed) == 1:
            raise OSError("no more")

    monkeypatch.setattr(os, "fsync", fsync)
    inside = Mark((5, 0), "s", velocity=70.5, repetition=3)
    with pytest.raises(OSError, match="no more"):
        lake.mark(0, [inside])
    lake.mark(0, [inside])
    assert len(flushed) == 3
    assert marks(next(tmp_path.glob("_quarantine-*"))) == [inside]
    lake.release(0)


async def test_a_damaged_file_of_marks_stops_a_training(
    store: Store, redis_server: EmbeddedRedis, tmp_path: Path
) -> None:
    """Rather than that bots are trained on."""
    await store.append(clicks("s", "ab"))
    Stream(redis_server.url, Lake(tmp_path), store.config).drain()
    (tmp_path / f"_quarantine-{partition_of('s', store.config)}.jsonl").write_text("?\n")
    with pytest.raises(LogError, match="no mark"):
        load_log([tmp_path])


def test_list_and_release_on_the_command_line(
    redis_server: EmbeddedRedis,
    namespace: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    """Scores and since when; who is released is listed no longer, who is not there is an error."""
    monkeypatch.setenv("RECSYS_NAMESPACE", namespace)

    async def hammer() -> None:
        store = Store(redis_server.url)
        store._prefix = f"{{{namespace}}}:"
        await store.append(clicks("bot", "a" * 21), now=NOW)
        await store.append(clicks("fan", "a" * 5), now=NOW - 1)
        await store.close()

    def said(*words: str, status: int = 0) -> dict[str, list[object]]:
        options = ("--json", "--redis-url", redis_server.url, "--data-dir", str(tmp_path))
        assert main(["quarantine", *words, *options]) == status
        answer: dict[str, list[object]] = json.loads(capsys.readouterr().out or "{}")
        return answer

    asyncio.run(hammer())
    expected = [
        {"session_id": name, "since": at, "velocity": n, "repetition": n, "reason": why}
        for name, at, n, why in (("bot", NOW, 21, "repetition"), ("fan", NOW - 1, 5, "alike"))
    ]
    assert said("list") == {"quarantined": expected}
    assert said("release", "bot", "fan") == {"released": ["bot", "fan"]}
    assert said("list") == {"quarantined": []}
    assert said("release", "bot", status=2) == {"released": []}
    assert said("release", status=2) == {}
