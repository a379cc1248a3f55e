"""Lists are made one after another, and what came meanwhile goes before the next."""

import asyncio
import time

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
    """Whatever comes: where there is more to do than can be done, lists would wait for ever."""
    monkeypatch.setattr(turns_of, "PATIENCE", 0.05)
    turns, done = Turns(), list[str]()

    async def make(name: str) -> None:
        await turns.next()
        done.append(name)
        asyncio.get_running_loop().call_soon(done.append, f"after {name}")

    await turns.next()
    waiting = [asyncio.create_task(make(name)) for name in "ab"]
    await asyncio.sleep(0)
    time.sleep(0.1)  # all that came at once
    await asyncio.gather(*waiting)
    await asyncio.sleep(0.01)
    assert done == ["a", "b", "after a", "after b"]


async def test_turns_that_come_late_are_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a turn of the event loop takes that long, each wait for one makes it worse."""
    monkeypatch.setattr(turns_of, "PATIENCE", 0.0)
    turns = Turns()
    for _ in range(3):
        with pytest.raises(StopIteration):
            turns.next().send(None)


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


async def test_of_many_who_wait_the_first_is_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """However short a time it has waited; when few are left, what comes goes first again."""
    monkeypatch.setattr(turns_of, "PATIENCE", 60.0)
    monkeypatch.setattr(turns_of, "FEW", 2)
    turns, done = Turns(), list[str]()

    async def make(name: str) -> None:
        await turns.next()
        done.append(name)
        asyncio.get_running_loop().call_soon(come, f"after {name}")

    def come(name: str) -> None:
        asyncio.get_running_loop().call_soon(done.append, name)

    await asyncio.gather(*(make(name) for name in "abcdef"))
    await asyncio.sleep(0.01)
    # Of five who wait three go on at once.
    firsts = [name for name in done if len(name) == 1]
    assert firsts == list("abcdef")
    assert done.index("d") < done.index("after b")
    assert done[-5:] == ["after d", "e", "after e", "f", "after f"]
