"""Turns: lists are made one after another, and what came meanwhile goes before the next.

A list takes several times as long as what a worker does for an event. Those whose sessions were
read at the same time would all be made before the event loop looks at anything else, and an event
that comes meanwhile would wait for all of them.
"""

import asyncio
from collections import deque

# Seconds that a list waits for what comes; then it is next, whatever comes. With half of that p99
# was 9.3 instead of 7.6 ms for events and 18 instead of 16 for lists (750 visits/s in slow minutes,
# one server that had each for 2 s in turn).
PATIENCE = 0.02
# So many lists wait for it. Of more the first is next: with more to do than there is time for, they
# would wait for what never ends. With twice as many p99 was 9.0 and 22 ms, in the same run.
FEW = 8


class Turns:
    """One worker's."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[float, asyncio.Future[None]]] = deque()  # when each is overdue
        self._late: float | None = None  # when the turn that is taken will have been so for long

    async def next(self) -> None:
        """Return when it is the caller's turn, which it uses without awaiting anything."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        if self._late is None:
            self._late = now + PATIENCE
            loop.call_soon(self._look)
        elif now < self._late:  # else there is so much to do that turns are of no use
            turn = loop.create_future()
            self._waiting.append((now + PATIENCE, turn))
            await turn

    def _look(self) -> None:
        # One turn of the event loop to see what came, and one in which that is begun.
        loop = asyncio.get_running_loop()
        if self._overdue(loop.time()):
            self._give()
        else:
            loop.call_soon(self._give)

    def _give(self) -> None:
        """To the next one, and to all that are overdue."""
        loop = asyncio.get_running_loop()
        now, given = loop.time(), False
        while self._waiting and (not given or self._overdue(now)):
            _, turn = self._waiting.popleft()
            if not turn.done():  # else its caller was cancelled
                turn.set_result(None)
                given = True
        self._late = now + PATIENCE if given else None
        if given:
            loop.call_soon(self._look)

    def _overdue(self, now: float) -> bool:
        waiting = self._waiting
        return bool(waiting) and (waiting[0][0] <= now or len(waiting) > FEW)
