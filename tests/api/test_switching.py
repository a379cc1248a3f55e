"""Bundles are switched while requests are under way: none fails, and none mixes two of them."""

import asyncio
import dataclasses
from pathlib import Path

import polars as pl
import pytest

from api.settings import Settings
from recsys.bundle import Bundle
from recsys.events import Event
from recsys.mirror import mirrored
from recsys.recommend import Request, recommend
from recsys.registry import Registry
from recsys.session import Session
from recsys.training import train
from tests.api.conftest import running
from tests.synthetic import UNTOLD, checkerboard, small_config
from tests.test_training import RANKED

pytestmark = pytest.mark.anyio


def named_after(name: str, **tables: object) -> Bundle:
    frame = checkerboard().with_columns(item_id=pl.lit(name) + pl.col("item_id"))
    # Nor do others' clicks move its scores, or bring items that it does not know.
    return train(frame, small_config(**tables, aggregate=UNTOLD))


async def test_no_answer_mixes_two_bundles(settings: Settings, tmp_path: Path) -> None:
    """Each is, items and scores, the list of the bundle that it names."""
    registry = Registry(tmp_path / "bundles")
    bundles = {bundle.version: bundle for bundle in (named_after("a"), named_after("b", **RANKED))}
    wanted = {}
    for version, bundle in bundles.items():
        registry.publish(bundle)
        clicks = [Event("view", "s", item, timestamp=1.0) for item in ("ai3", "bi4")]
        session = Session.from_events(clicks, config=bundle.config.session)
        wanted[version] = recommend(bundle, session, Request())
    assert not set.intersection(*(set(answer.item_ids) for answer in wanted.values()))
    fast = dataclasses.replace(settings, data_dir=tmp_path, poll_seconds=0.005)
    seen: list[str] = []
    async with running(fast) as api:
        await api.click("ai3", "bi4")

        async def ask() -> None:
            while len(set(seen)) < 2 or len(seen) < 150:
                response = await api.post("/v1/recommendations", {"session_id": "s"})
                assert response.status_code == 200, response.text
                answer = response.json()
                seen.append(answer["bundle"])
                right = wanted[answer["bundle"]]
                assert [item["item_id"] for item in answer["items"]] == right.item_ids
                scores = [item["score"] for item in answer["items"]]
                assert scores == pytest.approx(right.scores, abs=1e-6)

        async def switch() -> None:
            while True:
                for version in bundles:
                    registry.activate(version)
                    await asyncio.sleep(0.05)

        switching = asyncio.create_task(switch())
        async with asyncio.timeout(30):
            await asyncio.gather(*(ask() for _ in range(8)))
        switching.cancel()
    assert set(seen) == set(bundles)


async def test_trending_names_the_bundle_it_is_made_from(
    settings: Settings, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where another one comes to serve while the handler waits for the store."""
    async with running(settings) as api:
        engine = api.app.state.engine
        other = dataclasses.replace(bundle, version="another")
        mirror = await mirrored(engine.store, other.config)

        async def keep_up() -> int:
            engine.bundle, engine.mirror = other, mirror
            return 0

        monkeypatch.setattr(engine, "keep_up", keep_up)
        assert (await api.client.get("/v1/trending")).json()["bundle"] == "another"
