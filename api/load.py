"""Load: visits sent to a server at a steady rate, or as fast as it answers, and how long they took.

Open loop: a visit begins when it is due, whether or not those before are answered, and its times
count from then, so that what waits in front of a slow server is seen (Tene, "How NOT to Measure
Latency"). One process, which does little more than copy bytes.
"""

import asyncio
import contextlib
import ctypes
import gc
import os
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import numpy as np
import orjson
from numpy.typing import NDArray

from recsys.bundle import Bundle

Milliseconds = NDArray[np.float64]

CONNECTIONS = 64  # that visits share; those beyond wait, and it counts
LONGEST = 30  # events of a session
POPULAR = 1.1  # exponent of how often visitors come (Zipf)
FOLLOWING = 0.7  # how often the next item is one that followed the last in the log
NEXT = 20  # of which that many are looked at
LIST = 20  # items asked for
SLOW = 100.0  # milliseconds


@dataclass(frozen=True, slots=True)
class Visit:
    """An event, and the list that is asked for once it is accepted, as HTTP requests. Without an
    event the list is asked for at once."""

    event: bytes
    list: bytes


@dataclass
class Outcome:
    """What became of visits: milliseconds of each event and of each whole visit, from when it was
    due; of each list from when it was asked for; of each refusal from when it or its visit was.
    statuses: of answers. answers: bodies of the lists that asked for timings. list_bytes: of a list
    without. seconds: until the last answer; settled: until the last that was a refusal or SLOW."""

    events: list[float] = field(default_factory=list)
    lists: list[float] = field(default_factory=list)
    visits: list[float] = field(default_factory=list)
    refusals: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    answers: list[bytes] = field(default_factory=list)
    list_bytes: int = 0
    seconds: float = 0.0
    settled: float = 0.0


def visits_of(
    bundle: Bundle, count: int, host: str, *, seed: int = 0, timed: int = 20
) -> Iterator[Visit]:
    """So many visits to a bundle's shop.

    Visitors come by Zipf's law; a session of theirs has 1 to LONGEST events and walks along what
    followed what in the log. Each timed-th list asks for its timings.
    """
    rng = np.random.default_rng(seed)
    popular = np.cumsum(bundle.popularity.counts, dtype=np.float64)
    visitors = max(1, count // 8)
    often = np.cumsum(np.arange(1, visitors + 1, dtype=np.float64) ** -POPULAR)
    left, last, sessions = np.zeros(visitors, int), np.zeros(visitors, int), np.zeros(visitors, int)
    who = np.searchsorted(often, rng.random(count) * often[-1])
    for number, visitor in enumerate(who.tolist()):
        item = step(bundle, popular, last[visitor] if left[visitor] else -1, rng)
        if not left[visitor]:
            left[visitor] = min(1 + int(rng.geometric(0.2)), LONGEST)
            sessions[visitor] += 1
        left[visitor] -= 1
        last[visitor] = item
        session = f"load-{seed}-{visitor}-{sessions[visitor]}"
        event = {"type": "view", "session_id": session, "item_id": bundle.items.ids([item])[0]}
        wanted = {"session_id": session, "n": LIST, "timings": number % timed == 0}
        yield Visit(
            request("POST", "/v1/events", orjson.dumps({"events": [event]}), host=host),
            request("POST", "/v1/recommendations", orjson.dumps(wanted), host=host),
        )


def step(bundle: Bundle, popular: Milliseconds, last: int, rng: np.random.Generator) -> int:
    """The row of the next item on a visitor's walk: mostly one that followed the last, else any.

    popular: float64 [items], how often items are touched, summed up. last: -1 at the beginning.
    """
    if last >= 0 and rng.random() < FOLLOWING:
        first, end = bundle.transitions.starts[last : last + 2].tolist()
        following = bundle.transitions.neighbours[first : min(end, first + NEXT)]
        if len(following):
            return int(rng.choice(following))
    return int(np.searchsorted(popular, rng.random() * popular[-1]))


def request(
    method: str,
    path: str,
    body: bytes = b"",
    media_type: str = "application/json",
    host: str = "localhost",
) -> bytes:
    """An HTTP/1.1 request, as it goes over the wire."""
    head = (
        f"{method} {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: {media_type}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def due(count: int, rate: float, seed: int = 0) -> Milliseconds:
    """Seconds at which visits begin: independent of each other, so many a second on average."""
    return np.cumsum(np.random.default_rng(seed).exponential(1 / rate, count))


class _Alarm:
    """Calls when it is time, to the microsecond: event loops count in whole milliseconds, for which
    the server would be blamed. Where there is no timerfd_create(2), as they do."""

    def __init__(self, rings: Callable[[], None]) -> None:
        self._loop, self._rings = asyncio.get_running_loop(), rings
        self._system = ctypes.CDLL(None)
        self._later: asyncio.TimerHandle | None = None
        self._file = -1
        if hasattr(self._system, "timerfd_create"):
            self._file = self._system.timerfd_create(time.CLOCK_MONOTONIC, os.O_NONBLOCK)
        if self._file >= 0:
            self._loop.add_reader(self._file, self._rung)

    def set(self, seconds: float) -> None:
        """seconds: from now."""
        if self._file < 0:
            self._later = self._loop.call_later(seconds, self._rings)
            return
        whole, rest = divmod(max(1, int(seconds * 1e9)), 1_000_000_000)
        self._system.timerfd_settime(self._file, 0, (ctypes.c_long * 4)(0, 0, whole, rest), None)

    def _rung(self) -> None:
        os.read(self._file, 8)
        self._rings()

    def close(self) -> None:
        if self._later:
            self._later.cancel()
        if self._file >= 0:
            self._loop.remove_reader(self._file)
            os.close(self._file)


async def run(
    url: str,
    visits: Sequence[Visit],
    begin: Milliseconds | None,
    connections: int = CONNECTIONS,
) -> Outcome:
    """Send visits. begin: seconds at which each is due; None: as soon as a connection is free.

    A connection that the server ends while it is idle is made anew. Raises ConnectionError where
    one ends that is in use, or cannot be made.
    """
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or 80
    found = _Run(visits, asyncio.get_running_loop().create_future(), (host, port))
    for _ in range(connections):
        await found.connect()
    gc.disable()  # a pause of ours would count as the server's
    start = found.began = time.perf_counter()
    try:
        if begin is None:
            for _ in range(min(connections, len(visits))):
                found.start(found.started, start)
            found.hungry = True
            await found.done
        else:
            times = (start + begin).tolist()

            def start_due() -> None:
                while found.started < len(times):
                    left = times[found.started] - time.perf_counter()
                    if left > 0:
                        alarm.set(left)
                        return
                    found.start(found.started, times[found.started])

            with contextlib.closing(_Alarm(start_due)) as alarm:
                start_due()
                await found.done
    finally:
        gc.enable()
        for task in found.connecting:
            task.cancel()
        for client in found.clients:
            client.close()
        await asyncio.sleep(0)  # in which they are
    found.outcome.seconds = time.perf_counter() - start
    return found.outcome


class _Run:
    """Visits under way."""

    def __init__(
        self, visits: Sequence[Visit], done: asyncio.Future[None], server: tuple[str, int]
    ) -> None:
        self.visits, self.done, self.server = visits, done, server
        self.connecting: set[asyncio.Task[None]] = set()
        self.outcome = Outcome()
        self.clients: list[_Connection] = []
        self.free: deque[_Connection] = deque()
        self.waiting: deque[tuple[int, float]] = deque()
        self.started = self.ended = 0
        self.began = 0.0
        self.hungry = False  # for the next visit as soon as a connection is free

    async def connect(self) -> None:
        loop = asyncio.get_running_loop()
        _, client = await loop.create_connection(lambda: _Connection(self), *self.server)
        if client in self.clients:  # else it is lost already
            self._free(client)

    def lost(self, client: "_Connection", *, used: bool) -> None:
        """Go on without a connection that the server ended."""
        self.clients.remove(client)
        if self.done.done():
            return
        if used:
            self.done.set_exception(ConnectionError("the server ended a connection"))
            return
        if client in self.free:  # else it had just been made
            self.free.remove(client)
        task = asyncio.create_task(self.connect())
        self.connecting.add(task)
        task.add_done_callback(self._connected)

    def _connected(self, task: asyncio.Task[None]) -> None:
        self.connecting.discard(task)
        if not task.cancelled() and (error := task.exception()) and not self.done.done():
            self.done.set_exception(error)

    def start(self, number: int, began: float) -> None:
        self.started = number + 1
        if self.free:
            self._event(self.free.popleft(), number, began)
        else:
            self.waiting.append((number, began))

    def _event(self, client: "_Connection", number: int, began: float) -> None:
        if not self.visits[number].event:
            self._list(client, number, began, began)
            return

        def answered(status: int, _body: bytes) -> None:
            now = time.perf_counter()
            if self._answered(status, began, now, self.outcome.events):
                self._list(client, number, began, now)
            else:
                self._end(client)

        client.send(self.visits[number].event, answered)

    def _list(self, client: "_Connection", number: int, began: float, asked: float) -> None:
        def answered(status: int, body: bytes) -> None:
            now = time.perf_counter()
            if self._answered(status, asked, now, self.outcome.lists):
                self.outcome.visits.append((now - began) * 1000)
                if b'"timings"' in body:
                    self.outcome.answers.append(body)
                else:
                    self.outcome.list_bytes = len(body)
            self._end(client)

        client.send(self.visits[number].list, answered)

    def _answered(self, status: int, asked: float, now: float, good: list[float]) -> bool:
        """Note how long an answer took, and whether it is a good one."""
        passed = (now - asked) * 1000
        (good if status < 300 else self.outcome.refusals).append(passed)
        self.outcome.statuses[status] += 1
        if status >= 300 or passed > SLOW:
            self.outcome.settled = now - self.began
        return status < 300

    def _end(self, client: "_Connection") -> None:
        self.ended += 1
        self._free(client)
        if self.ended == len(self.visits) and not self.done.done():
            self.done.set_result(None)

    def _free(self, client: "_Connection") -> None:
        if self.waiting:
            self._event(client, *self.waiting.popleft())
        elif self.hungry and self.started < len(self.visits):
            self.started += 1
            self._event(client, self.started - 1, time.perf_counter())
        else:
            self.free.append(client)


class _Connection(asyncio.Protocol):
    """HTTP/1.1 on one kept-alive connection, a request at a time."""

    def __init__(self, run: _Run) -> None:
        self._run = run
        self._data = b""
        self._body = -1  # where it begins, -1 before that is known
        self._end = 0
        self._answered: Callable[[int, bytes], None] | None = None
        run.clients.append(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]  # of TCP

    def send(self, request: bytes, answered: Callable[[int, bytes], None]) -> None:
        self._answered = answered
        with contextlib.suppress(RuntimeError):  # closed a moment ago: `connection_lost` comes
            self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._data += data
        if self._body < 0:
            head = self._data.find(b"\r\n\r\n")
            if head < 0:
                return
            self._body = head + 4
            lower = self._data[:head].lower()
            at = lower.find(b"content-length:")
            length = int(lower[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            self._end = self._body + length
        if len(self._data) < self._end:
            return
        status, body = int(self._data[9:12]), self._data[self._body : self._end]
        self._data, self._body = self._data[self._end :], -1
        answered, self._answered = self._answered, None
        assert answered is not None
        answered(status, body)

    def connection_lost(self, _error: Exception | None) -> None:
        self._run.lost(self, used=self._answered is not None)

    def close(self) -> None:
        self._answered = None
        self._transport.close()
