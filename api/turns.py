"""Turns: lists are made one after another, and what came meanwhile goes before the next.

A list takes several times as long as what a worker does for an event. Those whose sessions were
read at the same time would all be made before the event loop looks at anything else, and an event
that comes meanwhile would wait for all of them.
"""

import asyncio
from collections import deque


class Turns:
    """One worker's."""

    def __init__(self) -> None:
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._taken = False

    async def next(self) -> None:
        """Return when it is the caller's turn, which it uses without awaiting anything."""
        loop = asyncio.get_running_loop()
        if not self._taken:
            self._taken = True
            loop.call_soon(self._look)
            return
        turn = loop.create_future()
        self._waiting.append(turn)
        await turn

    def _look(self) -> None:
        # One turn of the event loop to see what came, and one in which that is begun.
        asyncio.get_running_loop().call_soon(self._give)

    def _give(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():  # else its caller was cancelled
                turn.set_result(None)
                asyncio.get_running_loop().call_soon(self._look)
                return
        self._taken = False
