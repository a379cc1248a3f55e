"""An engine follows the store's aggregates as often as there is something to follow."""

import asyncio
from pathlib import Path

import pytest

from api.engine import AT_A_LOOK, SHORTEST, Engine
from api.settings import Settings
from recsys.registry import Registry
from recsys.store import Store

pytestmark = pytest.mark.anyio


async def test_the_more_changes_the_more_often_they_are_looked_for(
    settings: Settings, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that few come at a time; without any as often as for bundles, and never without end."""
    engine = Engine(settings, store, Registry(tmp_path))
    longest = settings.poll_seconds
    a_second = AT_A_LOOK * 4 / longest  # changes: four looks between two for bundles
    pauses: list[float] = []
    looks = iter([a_second] * 8 + [0.0] * 8 + [1e6 * a_second] * 8)

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 24:
            raise asyncio.CancelledError

    async def keep_up() -> int:
        return round(next(looks) * pauses[-1])

    monkeypatch.setattr(asyncio, "sleep", sleep)
    monkeypatch.setattr(engine, "keep_up", keep_up)
    with pytest.raises(asyncio.CancelledError):
        await engine.follow()
    assert pauses[0] == longest
    assert pauses[1:9] == pytest.approx([longest / 4] * 8)
    assert pauses[9:17] == pytest.approx([longest / 2, *[longest] * 7])
    assert set(pauses[17:]) == {SHORTEST}
