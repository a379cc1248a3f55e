"""Admission: while a worker has more to do than it can, what it takes in is answered in time.

A queue that grows helps nobody: whoever waits in it gets an answer when they have left. So where
those that a worker has taken in would keep the next one waiting for longer than a limit, that one
is told at once to come back. How long it would wait is their number times the processor time that
one takes, as seen lately, so the limit holds on fast and slow machines and for short and long
lists. A burst may wait for the whole of the limit; once that is reached, the queue is a standing
one, and is kept short until nothing had to be refused for a while (as in Maurer, "Fail at Scale",
ACM Queue 13/8, 2015), or for so long that it is looked at anew with half of the limit: those that
wait for a Redis that is far away are among those taken in, and would hold it up for ever. Lists are
refused before events: what is told of a visitor cannot be made up later. And while some are
refused, so are lists that were taken in and have waited for their turn for half of the limit.
"""

import math
import random
from collections.abc import Callable
from time import monotonic, thread_time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api import telemetry
from api.errors import overloaded

PACE = 0.001  # seconds that a request is taken to need until some were seen
# What requests need is looked at in stretches of so many, or of fewer until none is under way. Of
# those that begin while none is, one in so many is: the processor time of a thread is told in .6
# us, but in 12 where processors are busy.
STRETCH = 8
WEIGHT = 0.08  # of the latest stretch in what one is taken to need: they are answered in bunches
# As a worker does something else meanwhile, what one seems to need counts as so many seconds at
# most, and as so many times what they were taken to need.
LONGEST, JUMP = 0.02, 4.0
FEWEST = 8  # requests at a time that are taken in whatever the pace
WHILE = 0.1  # seconds without a refusal after which the queue is no standing one any more
ANEW = 10.0  # seconds after which it is looked at anew whether it is one
# Of the limit: for a queue that is one, and where that is looked at. With the whole of it then, at
# three times as many visits as there can be, one second in ten had a p99 of 100 to 200 ms.
STANDING, LOOKED_AT = 1 / 6, 1 / 2
EVENTS_LAST = 1.1  # times as long a wait refuses events, which go before lists (see turns)
LATE = 1 / 2  # of the limit, for a list that is taken in
# What operators look at is always answered.
OPEN = ("/health/", "/metrics", "/docs", "/redoc", "/openapi.json")
EVENTS = "/v1/events"


class Admission:
    """Refuses what would have to wait for more than ``longest`` seconds.

    used: of the processor, by the event loop; clock: both in seconds.
    """

    def __init__(
        self,
        app: ASGIApp,
        longest: float,
        used: Callable[[], float] = thread_time,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self.app, self.longest, self.used, self.clock = app, longest, used, clock
        self.taken, self.pace = 0, PACE
        self._refused = self._began = -math.inf
        self._answered = 0  # since the stretch began
        self._before: float | None = None  # used when the stretch began that is looked at

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"].startswith(OPEN):
            await self.app(scope, receive, send)
            return
        if self.refuses(scope["path"]):
            telemetry.refused.inc()
            await REFUSAL(scope, receive, send)
            return

        async def received() -> Message:
            # Who has yet to send what they ask for keeps nobody waiting, however long it takes.
            self.taken -= 1
            try:
                return await receive()
            finally:
                self.taken += 1

        if not self.taken:  # what a worker did since, for no request, is no pace
            # By chance: where visits come one by one, each eighth request is of one kind.
            looked_at = random.random() * STRETCH < 1
            self._before, self._answered = self.used() if looked_at else None, 0
        self.taken += 1
        try:
            await self.app(scope, received, send)
        finally:
            self.taken -= 1
            self._answered += 1
            if self._answered == STRETCH or (not self.taken and self._before is not None):
                self._learn()

    def _learn(self) -> None:
        """From a stretch that was looked at; what goes on is looked at now."""
        used = self.used()
        if self._before is not None:
            pace = (used - self._before) / self._answered
            self.pace += WEIGHT * (min(pace, LONGEST, JUMP * self.pace) - self.pace)
        self._before, self._answered = used if self.taken else None, 0

    def refuses(self, path: str) -> bool:
        """Whether a request to a path would have to wait for too long."""
        if self.taken < FEWEST:
            return False
        now = self.clock()
        longest = self.longest * (EVENTS_LAST if path == EVENTS else 1.0)
        share = 1.0
        if self._refused_lately(now):
            share = STANDING if now - self._began < ANEW else LOOKED_AT
        if self.taken * self.pace <= longest * share:
            return False
        if share != STANDING:
            self._began = now
        self._refused = now
        return True

    def is_late(self, seconds: float) -> bool:
        """Whether a list that was taken in, and has waited so long for its turn, is refused."""
        if seconds <= LATE * self.longest or self.taken <= FEWEST:
            return False
        return self._refused_lately(self.clock())

    def _refused_lately(self, now: float) -> bool:
        return now - self._refused < WHILE


REFUSAL = overloaded().response()
