"""Lists are made one after another, and what came meanwhile goes before the next."""

import asyncio

import pytest

from api import turns as turns_of
from api.turns import Turns

pytestmark = pytest.mark.anyio


async def test_what_comes_in_between_goes_first() -> None:
    """Two turns of the event loop lie between two lists: to see what came, and to begin it."""
    turns, done = Turns(), list[str]()

    async def make(name: str) -> None:
        await turns.next()
        done.append(name)
        asyncio.get_running_loop().call_soon(come, f"after {name}")

    def come(name: str) -> None:  # as the event loop calls what has data
        asyncio.get_running_loop().call_soon(done.append, name)

    await asyncio.gather(*(make(name) for name in "abc"))
    await asyncio.sleep(0.01)
    assert done == ["a", "after a", "b", "after b", "c", "after c"]


async def test_who_has_waited_for_long_is_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever comes: where there is more to do than can be done lists would wait for ever."""
    monkeypatch.setattr(turns_of, "PATIENCE", -1.0)
    turns, done = Turns(), list[str]()

    async def make(name: str) -> None:
        await turns.next()
        done.append(name)
        asyncio.get_running_loop().call_soon(done.append, f"after {name}")

    await asyncio.gather(*(make(name) for name in "abc"))
    await asyncio.sleep(0.01)
    assert done == ["a", "after a", "b", "c", "after b", "after c"]


async def test_who_is_alone_does_not_wait() -> None:
    """Not even for a turn of the event loop."""
    turns = Turns()
    for _ in range(3):
        with pytest.raises(StopIteration):
            turns.next().send(None)
        await asyncio.sleep(0.01)


async def test_a_turn_of_who_has_gone_is_the_next_ones() -> None:
    """One that is cancelled while it waits takes none."""
    turns = Turns()
    await turns.next()
    gone, here = (asyncio.create_task(turns.next()) for _ in range(2))
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.wait_for(here, 20)
    await asyncio.sleep(0.01)
    await asyncio.wait_for(turns.next(), 20)
