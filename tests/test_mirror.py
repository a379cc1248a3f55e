"""The mirror on a real server: the stream's aggregates are those of the same events as a log."""

import random
from collections.abc import Sequence
from typing import Any

import polars as pl
import pytest

from recsys.aggregate_log import LogFold
from recsys.aggregates import Aggregates, for_everybody
from recsys.config import Aggregate, Config
from recsys.events import Event
from recsys.mirror import declared, mirrored
from recsys.snapshot import EMPTY
from recsys.store import CODE, Library, Store
from tests.test_aggregates import COLUMNS, DECLARED

pytestmark = pytest.mark.anyio

CONFIG = Config(aggregate=DECLARED)
SHOWN = tuple(a for a in DECLARED if for_everybody(a))
TERMS: tuple[dict[str, Any], ...] = (
    {},
    {"price": 3.5},
    {"price": 9.0, "category": ["p"]},
    {"category": ["q", "p"]},
    {"price": 0.0, "category": ["ü/c"]},
)


def some_events(count: int, seed: int) -> list[Event]:
    rng = random.Random(seed)
    return [
        Event(
            rng.choice(["view", "click", "impression"]),
            rng.choice("stuv"),
            rng.choice(["a", "b", "ü/c", "d"]),
            user_id=rng.choice(["x", "y"]),
            event_id=f"{seed}-{k}",
            timestamp=1.7e9 + 300.0 * rng.randrange(60) + rng.choice([0, 0.1]),
            value=rng.choice([None, 1.0, 2.5]),
            terms=rng.choice(TERMS),
        )
        for k in range(count)
    ]


async def accept(store: Store, events: Sequence[Event]) -> int:
    """Append events while the catalogue has the terms of each; returns how many were accepted."""
    accepted, at = 0, 0
    while at < len(events):
        known: dict[str, dict[str, Any]] = {}
        end = at
        while end < len(events):
            event = events[end]
            if known.setdefault(event.item_id or "", event.terms) != event.terms:
                break
            end += 1
        bare = {"price": None, "category": None}
        await store.put_items([(item, {**bare, **terms}) for item, terms in known.items()])
        accepted += (await store.append(events[at:end])).accepted
        at = end
    return accepted


def frame_of(events: Sequence[Event]) -> pl.DataFrame:
    bare = ({name: getattr(event, name, None) for name in COLUMNS} for event in events)
    rows = [{**fields, **event.terms} for fields, event in zip(bare, events, strict=True)]
    return pl.DataFrame(rows, schema=COLUMNS)


def of_log(events: list[Event]) -> Aggregates:
    return LogFold(frame_of(events), DECLARED, CONFIG.events).advance()


def assert_same(stream: Aggregates, log: Aggregates, some: tuple[Aggregate, ...]) -> None:
    assert stream.moment == log.moment
    for aggregate in some:
        found, wanted = dict(stream.named(aggregate)), dict(log.named(aggregate))
        assert {k: v for k, v in found.items() if abs(v) > 1e-12} == pytest.approx(
            {k: v for k, v in wanted.items() if abs(v) > 1e-12}, abs=1e-9
        ), aggregate.name


async def test_the_stream_gives_the_values_of_the_log(store: Store) -> None:
    """Whatever the order of arrival, duplicates included, and for every key."""
    await mirrored(store, CONFIG)
    events = some_events(150, 1)
    for at in range(0, len(events), 7):
        await accept(store, [*events[at : at + 7], *events[at : at + 2]])
    mirror = await mirrored(store, CONFIG, everything=True)
    assert_same(mirror.state, of_log(events), DECLARED)


async def test_a_mirror_follows_what_changes(store: Store) -> None:
    """What was appended after the mirror was made is in it after the next look, step by step."""
    first, second = some_events(60, 2), some_events(60, 3)
    await mirrored(store, CONFIG)
    await accept(store, first)
    mirror = await mirrored(store, CONFIG)
    assert_same(mirror.state, of_log(first), SHOWN)
    for event in second:
        await accept(store, [event])
    assert await mirror.catch_up(store) is not None
    assert_same(mirror.state, of_log([*first, *second]), SHOWN)


async def test_reading_a_visitor_brings_the_changes_along(store: Store) -> None:
    """One round trip: the session, its own rows, and what changed for everybody."""
    mirror = await mirrored(store, CONFIG)
    events = some_events(40, 4)
    await accept(store, events)
    live = await store.read("s", None, mirror.place)
    assert live.changes is not None
    assert mirror.apply(live.changes)
    log = of_log(events)
    assert_same(mirror.state, log, SHOWN)
    assert mirror.own(live.own) == pytest.approx(log.own("s", live.user_id))
    assert mirror.own({}) == log.own(None, None)


async def test_another_declaration_makes_mirrors_read_again(store: Store) -> None:
    """What is declared no longer is gone, and whoever mirrored it learns of it."""
    mirror = await mirrored(store, CONFIG)
    await accept(store, some_events(20, 5))
    assert await mirror.catch_up(store) is not None
    fewer = Config(aggregate=DECLARED[:2])
    other = await mirrored(store, fewer)
    assert await mirror.catch_up(store) is None
    assert await other.catch_up(store) is not None
    kept = of_log(some_events(20, 5))
    assert_same(other.state, kept, DECLARED[:1])


async def test_declaring_the_same_changes_nothing(store: Store) -> None:
    """Every worker declares what its bundle says; statistics go on under another name too."""
    mirror = await mirrored(store, CONFIG)
    await accept(store, some_events(20, 6))
    renamed = Config(aggregate=(Aggregate("other", "decayed_count", half_life="60m"), *DECLARED))
    again = await mirrored(store, renamed)
    assert again.epoch == mirror.epoch
    assert dict(again.state.named(renamed.aggregate[0])) == dict(again.state.named(DECLARED[0]))


async def test_a_mirror_that_fell_behind_is_told(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stream of changes is cut; whoever stands before the cut has to read everything."""
    code = CODE.replace("CHANGES_KEPT = 100000", "CHANGES_KEPT = 10")
    assert code != CODE
    monkeypatch.setattr("recsys.store.LIBRARY", Library.of(code))
    mirror = await mirrored(store, CONFIG)
    await accept(store, some_events(1, 7))
    assert await mirror.catch_up(store) is not None
    await accept(store, some_events(400, 8))
    assert await mirror.catch_up(store) is None


async def test_what_counts_no_longer_is_forgotten(store: Store) -> None:
    """Swept little by little; what still counts, and last values, stay as they are."""
    await mirrored(store, CONFIG)
    await accept(store, some_events(60, 9))
    before = await mirrored(store, CONFIG, everything=True)
    for _ in DECLARED:
        await before.sweep(store)
    same = await mirrored(store, CONFIG, everything=True)
    for aggregate in DECLARED:
        told = {k: v for k, v in before.state.named(aggregate) if v}
        assert {k: v for k, v in same.state.named(aggregate) if v} == told
    late = Event("view", "z", "z", "z", event_id="late", timestamp=1.7e9 + 90 * 86_400, value=3.0)
    await store.append([late])
    mirror = await mirrored(store, CONFIG)
    for _ in DECLARED:
        await mirror.sweep(store)
    after = await mirrored(store, CONFIG, everything=True)
    for aggregate in DECLARED:
        keys = {key for key, _ in after.state.named(aggregate)}
        if aggregate.kind == "last_value":
            assert keys - {"z"} == {key for key, _ in before.state.named(aggregate)}
        else:
            assert keys <= {"z"}


async def test_what_another_configuration_declares_is_kept_beside(store: Store) -> None:
    """While two bundles are compared, each is told of its own aggregates, and they go on."""
    mirror = await mirrored(store, CONFIG)
    fewer = Config(aggregate=DECLARED[:1])
    other = await mirrored(store, fewer, beside=((CONFIG, EMPTY),))
    await accept(store, some_events(20, 5))
    assert await mirror.catch_up(store) is not None
    assert await other.catch_up(store) is not None
    assert_same(mirror.state, of_log(some_events(20, 5)), SHOWN)
    await declared(store, (fewer, EMPTY))
    assert await mirror.catch_up(store) is None
