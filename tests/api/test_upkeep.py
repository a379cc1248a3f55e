"""The active bundle keeps up with the live log by itself."""

import contextlib
import time
from pathlib import Path

import polars as pl
import pytest

from api.serve import serve
from api.stream import stream
from api.upkeep import Schedule, Upkeep
from recsys.embedded import EmbeddedRedis
from recsys.events import Event, InputError
from recsys.lake import Lake
from recsys.registry import Registry
from recsys.store import Store, StoreConfig
from recsys.stream import Stream
from recsys.training import train
from tests.synthetic import small_config, walks

TOML = """
[embedding]
embedding_size = 8
epochs = 5
[ranker]
enabled = false
[session_embedding]
embedding_size = 8
epochs = 1
"""
SESSIONS, KNOWN = 450, 300  # of the log, and of the active bundle


def test_what_is_due_and_why() -> None:
    """Whatever comes first: so many events, so long a time; nothing without something new."""
    schedule = Schedule(refit=600.0, events=500, retrain=86400.0)
    assert schedule.due(0, 9e9, 9e9) is None
    assert schedule.due(499, 599.0, 86399.0) is None
    assert schedule.due(1, 600.0, 0.0) == ("refit", "600 s since the last, 1 new events")
    assert schedule.due(500, 1.0, 0.0) == ("refit", "500 new events")
    assert schedule.due(500, 600.0, 86400.0) == ("train", "the last full training is due again")
    assert Schedule(events=500).due(499, 9e9, 9e9) is None
    assert Schedule(drift=True).due(1, 9e9, 9e9) is None
    assert Schedule(drift=True).due(1, 0.0, 0.0, "they fell") == ("refit", "they fell")
    assert Schedule(events=500).due(1, 0.0, 0.0, "they fell") is None


def test_a_schedule_in_words(tmp_path: Path) -> None:
    """Periods as people write them; what is none is explained, and so is --once."""
    assert Schedule.of(None, None, None, False) is None
    assert Schedule.of(None, None, None, True) == Schedule(drift=True)
    assert Schedule.of("10m", 500, "1d", False) == Schedule(600.0, 500, 86400.0)
    with pytest.raises(InputError, match="--refit: 'often' is not a duration such as 10m"):
        Schedule.of("often", None, None, False)
    with pytest.raises(InputError, match="--retrain: '0d' is not a duration"):
        Schedule.of(None, None, "0d", False)
    with pytest.raises(InputError, match="--refit-events: must be at least 1, got 0"):
        Schedule.of(None, 0, None, False)
    with pytest.raises(InputError, match="--once ends at once"):
        stream(tmp_path, once=True, schedule=Schedule(events=1))
    with pytest.raises(
        InputError, match="with --redis-url the live log is read by `recsys stream`"
    ):
        serve(tmp_path, redis_url="redis://127.0.0.1:1", schedule=Schedule(events=1))


def clicks(frame: pl.DataFrame) -> list[Event]:
    rows = frame.select("type", "session_id", "item_id", "timestamp").iter_rows()
    return [
        Event(kind, session, item, event_id=f"e{k}", timestamp=when)
        for k, (kind, session, item, when) in enumerate(rows)
    ]


@pytest.mark.anyio
async def test_new_events_bring_a_new_bundle(
    store: Store,
    redis_server: EmbeddedRedis,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What the reader has written is refitted in a process of its own, judged, and served."""
    monkeypatch.chdir(tmp_path)
    Path("recsys.toml").write_text(TOML)
    tables = {"ranker": {"enabled": False}, "session_embedding": {"embedding_size": 8, "epochs": 1}}
    frame, registry = walks(SESSIONS), Registry(tmp_path / "bundles")
    active = train(frame.head(6 * KNOWN), small_config(**tables))
    registry.publish(active)
    await store.append(clicks(frame))
    reader = Stream(redis_server.url, Lake(tmp_path / "events"), store.config)
    reader.drain()
    assert reader.written == len(frame)
    upkeep = Upkeep(tmp_path, tmp_path / "events", Schedule(events=len(frame)))
    with contextlib.closing(upkeep):
        deadline = time.monotonic() + 120
        while len(registry.versions()) < 2 and time.monotonic() < deadline:
            upkeep(reader)
            time.sleep(0.05)
        while upkeep.busy:
            time.sleep(0.05)
            upkeep(reader)
    told = capsys.readouterr().err
    assert f"refit: {len(frame):,} new events" in told
    version = next(version for version in registry.versions() if version != active.version)
    verdict = registry.verdict(version)
    assert verdict is not None
    assert verdict["judged"]
    assert (registry.active() == version) == verdict["passed"]
    newer = registry.load(version)
    assert newer.facts.line == [active.version]
    assert newer.cutoff == frame["timestamp"][-1]


@pytest.mark.anyio
async def test_a_fall_of_the_live_hits_starts_a_refit(
    store: Store,
    redis_server: EmbeddedRedis,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As the workers count them in the store, of the bundle that is active."""
    monkeypatch.setattr("recsys.drift.WINDOW", 100)
    monkeypatch.setattr("recsys.drift.STEP", 10)
    monkeypatch.setattr("api.upkeep.DRIFT_EVERY", 0.0)
    active = train(walks(60), small_config())
    Registry(tmp_path / "bundles").publish(active)
    (tmp_path / "events").mkdir()
    reader = Stream(redis_server.url, Lake(tmp_path / "events"), store.config)
    reader.written = 1

    async def score(count: int, every: int) -> None:
        for k in range(count):
            await store.score({active.version: k % every == 0, "other": True})
            upkeep(reader)

    upkeep = Upkeep(tmp_path, tmp_path / "events", Schedule(drift=True))
    with contextlib.closing(upkeep):
        await score(400, 2)
        assert not upkeep.busy
        await score(120, 9)
        assert upkeep.busy
    assert "refit: live hits have fallen to 0." in capsys.readouterr().err


def test_a_training_that_failed_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """After minutes, not after the period of a day, and what was wrong is told each time."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("api.upkeep.RETRY", 0.0)
    (tmp_path / "events").mkdir()  # which hold nothing
    reader = Stream("redis://127.0.0.1:1", Lake(tmp_path / "events"), StoreConfig())
    reader.written = 1
    with contextlib.closing(Upkeep(tmp_path, tmp_path / "events", Schedule(retrain=86400.0))) as up:
        for _ in range(2):
            up(reader)
            assert up.busy
            while up.busy:
                time.sleep(0.05)
                up(reader)
    assert capsys.readouterr().err.count("train: status 2:") == 2


def test_it_ends_with_the_reader_and_publishes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Closed in the middle of a training, its process is gone and no bundle is there."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "events").mkdir()
    walks(SESSIONS).write_parquet(tmp_path / "events" / "a.parquet")
    reader = Stream("redis://127.0.0.1:1", Lake(tmp_path / "events"), StoreConfig())
    reader.written = 1
    upkeep = Upkeep(tmp_path, tmp_path / "events", Schedule(retrain=1.0))
    upkeep(reader)
    assert upkeep.busy
    upkeep.close()
    assert not upkeep.busy
    assert Registry(tmp_path / "bundles").versions() == []
