"""Admission: while a worker has more to do than it can, what it takes in is answered in time.

A queue that grows helps nobody: whoever waits in it gets an answer when they have left. So where
those that a worker has taken in would keep the next one waiting for longer than a limit, that one
is told at once to come back. How long it would wait is their number times the time that one takes,
as seen lately (Little's law), so the limit holds on fast and slow machines, for short and long
lists. Lists are refused before events: what is told of a visitor cannot be made up later.
"""

from collections.abc import Callable
from time import perf_counter
from types import SimpleNamespace

from starlette.types import ASGIApp, Receive, Scope, Send

from api import telemetry
from api.errors import Problem

PACE = 0.001  # seconds that a request is taken to need until some were seen
WEIGHT = 0.05  # of the latest in what one is taken to need
LONGEST = 0.02  # seconds that the latest can count as: a switch of bundles is no pace
FEWEST = 8  # requests at a time that are taken in whatever the pace
EVENTS_LAST = 1.5  # times as long a wait refuses events
# What operators look at is always answered.
OPEN = ("/health/", "/metrics", "/docs", "/openapi.json")
EVENTS = "/v1/events"
REFUSED = SimpleNamespace(path="refused")  # in the place of a route, for the metrics


class Admission:
    """Refuses what would have to wait for more than ``longest`` seconds."""

    def __init__(
        self, app: ASGIApp, longest: float, clock: Callable[[], float] = perf_counter
    ) -> None:
        self.app, self.longest, self.clock = app, longest, clock
        self.taken, self.pace = 0, PACE
        self._since = 0.0  # the last answer, or the first of those taken in

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"].startswith(OPEN):
            await self.app(scope, receive, send)
            return
        if self.refuses(scope["path"]):
            telemetry.refused.inc()
            scope["route"] = REFUSED
            await _answer(scope, receive, send)
            return
        if not self.taken:
            self._since = self.clock()
        self.taken += 1
        try:
            await self.app(scope, receive, send)
        finally:
            self.taken -= 1
            now = self.clock()
            self.pace += WEIGHT * (min(now - self._since, LONGEST) - self.pace)
            self._since = now

    def refuses(self, path: str) -> bool:
        """Whether a request to a path would have to wait for too long."""
        longest = self.longest * (EVENTS_LAST if path == EVENTS else 1.0)
        return self.taken >= FEWEST and self.taken * self.pace > longest


async def _answer(scope: Scope, receive: Receive, send: Send) -> None:
    problem = Problem(
        503,
        "overloaded",
        "more is asked of this server than it can answer in time: nothing of this request was "
        "done; try again in a second, events with the same event_id",
        headers={"Retry-After": "1"},
    )
    await problem.response()(scope, receive, send)
