"""Live quality: lists are scored as they were before the event, and a worse bundle is withdrawn."""

import asyncio
import dataclasses
import gc
import itertools
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import polars as pl
import pytest

from api.quality import ASKED, Quality
from api.settings import Settings
from recsys import probation
from recsys.bundle import Bundle, sealed
from recsys.evaluation.replay import Sample, samples
from recsys.events import Event
from recsys.mirror import mirrored
from recsys.probation import Counts
from recsys.recommend import Recommendation, Request, recommend
from recsys.registry import Registry
from recsys.session import Session
from recsys.snapshot import told_after
from recsys.store import Store
from recsys.training import train
from tests.api.conftest import NOW, Served, running
from tests.synthetic import UNTOLD, small_config, walks
from tests.test_point_in_time import LIVE
from tests.test_training import RANKED

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def walked() -> Bundle:
    """After an item comes the one after it; told of nothing that could overtake a list."""
    return train(walks(200), small_config(aggregate=UNTOLD))


@pytest.fixture(scope="module")
def told() -> Bundle:
    """The same, and its ranker is told what the stream says."""
    bundle = train(walks(200), small_config(**RANKED, aggregate=LIVE))
    assert bundle.facts.features["live_co_viewed_now_share"] > 0
    return bundle


@pytest.fixture(scope="module")
def lost() -> Bundle:
    """Any item comes after any."""
    log = walks(200)
    shuffled = log.with_columns(pl.col("item_id").shuffle(seed=1))
    return train(shuffled, small_config(aggregate=UNTOLD))


@pytest.fixture
def sampled(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Every session is scored, from the first event on; nothing is published yet."""
    monkeypatch.setattr("api.quality.FILLED_IN", 0.0)
    monkeypatch.setattr("api.quality.MOST_TIME", 1e6)  # a busy machine is not what is tested
    return dataclasses.replace(settings, data_dir=tmp_path, quality_sample=1.0, poll_seconds=0.02)


def quality_of(api: Served) -> Quality:
    quality: Quality = api.app.state.engine.quality
    return quality


async def scored(api: Served, *events: dict[str, object]) -> None:
    """Post events, one a request, and wait until each was scored."""
    for event in events:
        full = {"type": "view", "session_id": "s", **event}
        response = await api.post("/v1/events", {"events": [full]})
        assert response.status_code == 202
        await quality_of(api).waiting.join()


async def counted(api: Served, bundle: Bundle) -> tuple[int, int]:
    return (await quality_of(api).store.quality([bundle.version]))[bundle.version]


def before_the_next(frame: pl.DataFrame, bundle: Bundle) -> Iterator[tuple[Sample, Session]]:
    """Each sample and its session right before the session's next event, when others have moved
    aggregates on."""
    upcoming = pl.col("row").shift(-1).over("session_id")
    row_of_next = frame.with_row_index("row").select(upcoming).to_series().to_list()
    fold = told_after(bundle.snapshot, bundle.config, frame)
    asked = samples(frame, bundle.config, fold=fold)
    for sample in sorted(asked, key=lambda sample: row_of_next[sample.moment.row]):
        moment = sample.moment
        later = row_of_next[moment.row] - moment.row - 1
        yield sample, dataclasses.replace(moment, known=moment.known + later).session(bundle.config)


@pytest.mark.parametrize("kind", ["walked", "told"])
async def test_live_hits_are_those_of_the_offline_replay(
    kind: str, sampled: Settings, request: pytest.FixtureRequest
) -> None:
    """Of the same events, by the next-item protocol; no list knows the event it is scored by."""
    bundle: Bundle = request.getfixturevalue(kind)
    Registry(sampled.data_dir / "bundles").publish(bundle)
    names = pl.format("t{}", pl.col("session_id"))
    frame = walks(220).tail(6 * 20).with_columns(session_id=names, timestamp=pl.lit(NOW))
    frame = frame.sample(fraction=1, shuffle=True, seed=3)
    # The mirror is moved by what is posted alone.
    async with running(dataclasses.replace(sampled, poll_seconds=60)) as api:
        for row in frame.select("session_id", "item_id").iter_rows(named=True):
            await scored(api, row)
        found = await counted(api, bundle)
    wanted = [
        sample.upcoming[0] in recommend(bundle, session, ASKED).item_ids
        for sample, session in before_the_next(frame, bundle)
    ]
    assert found == (len(wanted), sum(wanted))
    assert 0.3 < sum(wanted) / len(wanted) < 0.95


async def test_the_event_itself_is_no_hit(walked: Bundle, sampled: Settings) -> None:
    """What only the event brings into the list is a miss; looked at again, it is a hit."""
    Registry(sampled.data_dir / "bundles").publish(walked)
    near = recommend(walked, Session.from_events([Event("view", "s", "i0")]), ASKED).item_ids
    far = next(item for item in walked.items.ids(range(60)) if item not in near and item != "i0")
    async with running(sampled) as api:
        await scored(api, {"item_id": "i0"}, {"item_id": far})
        assert await counted(api, walked) == (1, 0)
        await scored(api, {"item_id": far})
        assert await counted(api, walked) == (2, 1)


async def test_what_is_not_asked_about(walked: Bundle, sampled: Settings) -> None:
    """Opening events, duplicates, late ones, what shows no interest, what no list may hold."""
    Registry(sampled.data_dir / "bundles").publish(walked)
    async with running(sampled) as api:
        await scored(api, {"item_id": "i0", "event_id": "a"}, {"item_id": "i0", "event_id": "a"})
        await scored(api, {"item_id": "i1", "timestamp": NOW - 1})
        await scored(api, {"item_id": "i2", "timestamp": NOW - 3600})
        await scored(api, {"item_id": "i3", "type": "dislike"}, {"type": "search"})
        await scored(api, {"item_id": "i4", "type": "impression"})
        assert await counted(api, walked) == (0, 0)
        await scored(api, {"item_id": "i1", "type": "cart", "event_id": "b"})
        assert await counted(api, walked) == (1, 1)
        await scored(api, {"item_id": "i1", "type": "purchase"}, {"item_id": "i1", "event_id": "b"})
        assert await counted(api, walked) == (1, 1)
        text = (await api.client.get("/metrics")).text
    for reason in ("duplicate", "late"):
        assert f'recsys_quality_unscored_total{{reason="{reason}"}}' in text


async def test_of_a_request_the_first_event_of_a_session_is_scored(
    walked: Bundle, sampled: Settings
) -> None:
    """No list was made between the others; of a request sent twice, none is scored again."""
    Registry(sampled.data_dir / "bundles").publish(walked)
    batch = [
        {"type": "view", "session_id": f"s{k % 2}", "item_id": f"i{k}", "event_id": f"e{k}"}
        for k in range(2, 8)
    ]
    async with running(sampled) as api:
        await scored(api, {"session_id": "s0", "item_id": "i1"})
        for _ in range(2):
            assert (await api.post("/v1/events", {"events": batch})).status_code == 202
            await quality_of(api).waiting.join()
        assert await counted(api, walked) == (1, 1)


async def test_nothing_is_read_of_sessions_that_are_not_drawn(
    walked: Bundle, sampled: Settings
) -> None:
    """A share of them is, always the same ones; none if it is 0."""
    Registry(sampled.data_dir / "bundles").publish(walked)
    for share, drawn in ((0.0, range(1)), (0.3, range(5, 40))):
        async with running(dataclasses.replace(sampled, quality_sample=share)) as api:
            for session in range(60):
                names = {"session_id": f"{share}-{session}"}
                await scored(api, {"item_id": "i1", **names}, {"item_id": "i2", **names})
            assert (await counted(api, walked))[0] in drawn


async def test_workers_add_up(walked: Bundle, sampled: Settings) -> None:
    """What both have scored is in the metrics of each."""
    Registry(sampled.data_dir / "bundles").publish(walked)
    async with running(sampled) as one, running(sampled) as other:
        await scored(one, {"item_id": "i1"}, {"item_id": "i2"})
        await scored(other, {"item_id": "i3"})
        for api in (one, other):
            text = (await api.client.get("/metrics")).text
            assert f'recsys_quality_scored{{bundle="{walked.version}"}} 2.0' in text
            assert f'recsys_quality_hits{{bundle="{walked.version}"}} 2.0' in text


async def test_a_list_is_not_scored_once_aggregates_have_moved_on(
    told: Bundle, store: Store, tmp_path: Path
) -> None:
    """They may know the event by then; and where they have not, they are those before it."""
    mirror = await mirrored(store, told.config)
    quality = Quality(store, Registry(tmp_path), 1.0)
    first, second = (Event("view", "s", item, timestamp=NOW) for item in ("i1", "i2"))
    await quality.append([first], told, mirror, NOW)
    await quality.append([second], told, mirror, NOW)
    (question,) = [quality.waiting.get_nowait()]
    assert mirror.state.numbers["item"] == {"i1": 0}
    await mirror.catch_up(store)
    assert mirror.state.numbers["item"] == {"i1": 0, "i2": 1}
    await quality._score(question)
    assert (await store.quality([told.version]))[told.version] == (0, 0)


@pytest.fixture
async def pair(
    walked: Bundle, sampled: Settings
) -> AsyncIterator[tuple[Registry, Served, Served, Callable[[Bundle], None]]]:
    """Two workers of a good bundle, and how another is published."""
    registry = Registry(sampled.data_dir / "bundles")
    registry.publish(walked)
    async with running(sampled) as one, running(sampled) as other:
        yield registry, one, other, registry.publish


async def until(api: Served, bundle: Bundle) -> None:
    """Wait until a worker serves a bundle."""
    async with asyncio.timeout(20):
        while api.app.state.engine.bundle.version != bundle.version:
            await asyncio.sleep(0.01)


async def visit(api: Served, k: int) -> None:
    events = [{"item_id": f"i{k % 50 + step}", "session_id": f"v{k}"} for step in range(3)]
    await scored(api, *events)


async def visits(apis: tuple[Served, Served], count: int) -> None:
    for k in range(count):
        await visit(apis[k % 2], k)


Pair = tuple[Registry, Served, Served, Callable[[Bundle], None]]


async def test_a_worse_bundle_is_withdrawn(pair: Pair, walked: Bundle, lost: Bundle) -> None:
    """By what visitors of both workers do; then the former serves again, in both, for good."""
    registry, one, other, publish = pair
    publish(lost)
    for api in (one, other):
        await until(api, lost)
    await visits((one, other), 30)
    for api in (one, other):
        await until(api, walked)
        assert quality_of(api).probation is None
    assert registry.active() == walked.version
    why = registry.withdrawn(lost.version)
    assert why is not None
    assert why["former"] == walked.version
    assert 13 <= why["former_only"] <= 30
    assert f"in the other for {why['former_only']}" in why["reason"]
    assert "recsys_rollbacks_total" in (await one.client.get("/metrics")).text


async def test_a_bundle_that_makes_no_lists_is_withdrawn(
    pair: Pair, walked: Bundle, lost: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error is a list that holds nothing."""
    registry, one, other, publish = pair

    def broken(bundle: Bundle, session: Session, request: Request) -> Recommendation:
        if bundle.version == lost.version:
            raise ZeroDivisionError
        return recommend(bundle, session, request)

    publish(lost)
    for api in (one, other):
        await until(api, lost)
    monkeypatch.setattr("api.quality.recommend", broken)
    await visits((one, other), 30)
    for api in (one, other):
        await until(api, walked)
    why = registry.withdrawn(lost.version)
    assert why is not None
    assert why["own_hits"] == 0


async def test_a_bundle_that_is_as_good_stays(
    pair: Pair, walked: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once enough was scored the former is let go of, in every worker."""
    registry, one, other, publish = pair
    facts = dataclasses.replace(walked.facts, clock="?")
    twin = sealed(dataclasses.replace(walked, facts=facts))
    formers = [weakref.ref(api.app.state.engine.bundle.embedding) for api in (one, other)]
    publish(twin)
    for api in (one, other):
        await until(api, twin)
    await visits((one, other), 30)
    succession = registry.succession()
    assert succession is not None
    counts = await quality_of(one).store.probation(succession.name)
    assert counts == Counts(counts.scored, counts.own_hits, counts.own_hits)
    assert counts.own_hits >= 10
    monkeypatch.setattr(probation, "ENOUGH", 10)
    async with asyncio.timeout(20):
        while any(quality_of(api).probation for api in (one, other)):
            await asyncio.sleep(0.01)
    gc.collect()
    assert [former() for former in formers] == [None, None]
    assert (registry.active(), registry.withdrawn(twin.version)) == (twin.version, None)


async def test_a_worker_that_starts_later_takes_part(
    pair: Pair, sampled: Settings, walked: Bundle, lost: Bundle
) -> None:
    """The probation is the registry's and the store's, not a worker's; ended, it stays so."""
    registry, one, *_, publish = pair
    publish(lost)
    await until(one, lost)
    async with running(sampled) as late:
        going = quality_of(late).probation
        assert going is not None
        assert going.former.bundle.version == walked.version
        await quality_of(late).store.end_probation(going.succession.name, probation.KEPT)
    async with running(sampled) as later:
        assert quality_of(later).probation is None
    assert registry.active() == lost.version


async def test_the_former_is_told_of_its_aggregates_meanwhile(
    told: Bundle, walked: Bundle, sampled: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store keeps those of both bundles, and in the end those of the one that stays."""
    registry = Registry(sampled.data_dir / "bundles")
    registry.publish(told)
    async with running(sampled) as api, running(sampled) as other:
        registry.publish(walked)
        for worker in (api, other):
            await until(worker, walked)
        succession = registry.succession()
        assert succession is not None
        store, visitors = quality_of(api).store, itertools.count()
        async with asyncio.timeout(60):  # a list may be overtaken
            while (await store.probation(succession.name)).scored < 4:
                await visit(api, next(visitors))
        going = quality_of(api).probation
        assert going is not None
        mirror = going.former.mirror
        assert mirror is not None
        assert await mirror.catch_up(store) is not None
        assert mirror.state.moment == NOW
        monkeypatch.setattr(probation, "ENOUGH", 1)
        async with asyncio.timeout(20):
            while quality_of(api).probation or quality_of(other).probation:
                await asyncio.sleep(0.01)
        assert await mirror.catch_up(store) is None


async def test_what_a_ranker_is_told_of_is_filled_in_first(
    told: Bundle, walked: Bundle, sampled: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new bundle is not judged by what it does before it knows what it is told."""
    monkeypatch.setattr("api.quality.FILLED_IN", 60.0)
    registry = Registry(sampled.data_dir / "bundles")
    registry.publish(walked)
    async with running(sampled) as api:
        registry.publish(told)
        await until(api, told)
        succession = registry.succession()
        assert succession is not None
        visitors = itertools.count()
        async with asyncio.timeout(60):  # a list may be overtaken
            while (await counted(api, told))[0] < 4:
                await visit(api, next(visitors))
        assert await quality_of(api).store.probation(succession.name) == Counts()
