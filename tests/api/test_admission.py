"""While there is more to do than can be done, what is taken in is answered in time."""

import asyncio
import dataclasses
from random import Random
from typing import Any

import httpx
import pytest

from api.admission import ANEW, EVENTS_LAST, FEWEST, LOOKED_AT, STANDING, WHILE, Admission
from api.settings import Settings
from api.telemetry import refused
from tests.api.conftest import Served, running

pytestmark = pytest.mark.anyio

LISTS, EVENTS = "/v1/recommendations", "/v1/events"


class Slow:
    """An application whose answers come when told, and clocks that go when told."""

    def __init__(self) -> None:
        self.used, self.now = 0.0, 0.0
        self.waiting: list[asyncio.Future[None]] = []

    async def __call__(self, _scope: Any, receive: Any, send: Any) -> None:
        await receive()
        answer = asyncio.get_running_loop().create_future()
        self.waiting.append(answer)
        await answer
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def answer(self, seconds: float, count: int = 1, *, at_once: bool = False) -> None:
        """at_once: the clock stands meanwhile."""
        for _ in range(count):
            self.used += seconds
            self.now += 0.0 if at_once else seconds
            self.waiting.pop(0).set_result(None)
            await asyncio.sleep(0)
            await asyncio.sleep(0)


@dataclasses.dataclass
class Asked:
    """A worker with a slow application, and the statuses of what it has answered."""

    slow: Slow
    admission: Admission
    statuses: list[int] = dataclasses.field(default_factory=list)
    tasks: set[asyncio.Task[None]] = dataclasses.field(default_factory=set)
    sent: asyncio.Event = dataclasses.field(default_factory=asyncio.Event)  # the requests' bodies

    @classmethod
    def within(cls, longest: float) -> "Asked":
        slow = Slow()
        asked = cls(slow, Admission(slow, longest, lambda: slow.used, lambda: slow.now))
        asked.sent.set()
        return asked

    async def learn(self, seconds: float) -> None:
        """Have it see that a request takes so long."""
        for _ in range(800):
            await self.ask(LISTS)
            await self.slow.answer(seconds)

    async def ask(self, path: str, count: int = 1) -> None:
        for _ in range(count):
            scope = {"type": "http", "path": path, "method": "POST", "headers": []}
            self.tasks.add(asyncio.create_task(self.admission(scope, self._receive, self._send)))
            await asyncio.sleep(0)

    async def _receive(self) -> Any:
        await self.sent.wait()
        return {"type": "http.request", "body": b"", "more_body": False}

    async def _send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.statuses.append(message["status"])


async def test_what_is_done_between_requests_is_no_pace() -> None:
    """A worker with few visitors, and work of its own between them, takes in a burst."""
    asked = Asked.within(0.099)
    for _ in range(800):
        await asked.ask(LISTS)
        await asked.slow.answer(0.001)
        asked.slow.used += 0.01
    await asked.ask(LISTS, 90)
    assert asked.statuses == [200] * 800
    await asked.slow.answer(0.001, 90)
    assert asked.statuses == [200] * 890


async def test_events_and_lists_in_turn_are_both_learned_from(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Visits that come one by one: what is looked at is not of one kind only."""
    monkeypatch.setattr("api.admission.random", Random(1))
    asked = Asked.within(0.099)
    for _ in range(2000):
        await asked.ask(EVENTS)
        await asked.slow.answer(0.001)
        await asked.ask(LISTS)
        await asked.slow.answer(0.007)
    assert 0.002 < asked.admission.pace < 0.006


async def test_a_pause_is_no_pace() -> None:
    """What else a worker did for a moment, among requests, says little of them."""
    asked = Asked.within(0.099)
    await asked.learn(0.0005)
    await asked.ask(LISTS, 40)
    asked.slow.used += 0.15
    await asked.slow.answer(0.0005, 40)
    assert 0.0005 <= asked.admission.pace < 0.0007


async def test_who_has_not_sent_their_request_keeps_nobody_waiting() -> None:
    """Nor does one that goes away meanwhile: many slow lines are no reason to refuse others."""
    asked = Asked.within(0.099)
    await asked.learn(0.005)
    asked.sent = late = asyncio.Event()
    await asked.ask(EVENTS, 200)
    assert asked.admission.taken == 0
    for task in list(asked.tasks)[-50:]:
        task.cancel()
    await asyncio.sleep(0)
    asked.sent = asyncio.Event()
    asked.sent.set()
    await asked.ask(LISTS, 10)
    assert asked.statuses == [200] * 800
    assert asked.admission.taken == len(asked.slow.waiting) == 10
    await asked.slow.answer(0.005, 10)
    late.set()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await asked.slow.answer(0.005, len(asked.slow.waiting))
    assert asked.admission.taken == 0


async def test_what_would_wait_too_long_is_refused() -> None:
    """So many are taken in as are answered within the limit, at the pace that was seen."""
    asked = Asked.within(0.099)
    await asked.learn(0.005)
    assert asked.statuses == [200] * 800
    assert asked.admission.pace == pytest.approx(0.005, rel=0.01)
    await asked.ask(LISTS, 50)
    assert len(asked.slow.waiting) == 20
    assert asked.statuses[800:] == [503] * 30


async def test_lists_are_refused_before_events() -> None:
    """What a visitor did cannot be made up later; and what operators look at is always answered."""
    asked = Asked.within(0.099)
    await asked.learn(0.005)
    await asked.ask(LISTS, 20)
    await asked.ask(EVENTS, 50)
    assert len(asked.slow.waiting) == round(20 * EVENTS_LAST)
    await asked.ask(LISTS)
    assert asked.statuses[-1] == 503
    await asked.ask("/health/live")
    await asked.ask("/metrics")
    assert len(asked.slow.waiting) == round(20 * EVENTS_LAST) + 2


async def test_a_standing_queue_is_kept_short() -> None:
    """Once the limit was reached, a part of it, until none had to be refused for a while."""
    asked = Asked.within(0.6)
    await asked.learn(0.005)
    await asked.ask(LISTS, 200)
    assert len(asked.slow.waiting) == 121
    await asked.slow.answer(0.005, 111, at_once=True)
    await asked.ask(LISTS, 200)
    assert len(asked.slow.waiting) == 121 * STANDING // 1 + 1
    await asked.slow.answer(0.005, 21)
    asked.slow.now += WHILE
    before = len(asked.statuses)
    await asked.ask(LISTS, 100)
    assert len(asked.slow.waiting) == 100
    assert len(asked.statuses) == before


async def test_a_far_away_redis_holds_nothing_up_for_ever() -> None:
    """Where as many as a standing queue may hold are under way all the time, they are let in again
    after a while, although some were refused until then."""
    asked = Asked.within(0.6)
    await asked.learn(0.005)
    await asked.ask(LISTS, 200)
    began = asked.slow.now
    await asked.slow.answer(0.005, 81, at_once=True)
    for _ in range(int(ANEW / WHILE) * 2):
        asked.slow.now += WHILE / 2
        before = len(asked.statuses)
        await asked.ask(LISTS)
        if len(asked.statuses) == before:
            break
        assert asked.statuses[-1] == 503
    assert len(asked.slow.waiting) == 41
    assert asked.slow.now - began == pytest.approx(ANEW, abs=WHILE)


async def test_a_queue_that_stands_for_long_is_looked_at_with_a_part_of_the_limit() -> None:
    """Where it is one after all, no more than that has come in, and it is kept short again."""
    asked = Asked.within(0.6)
    await asked.learn(0.005)
    await asked.ask(LISTS, 200)
    began = asked.slow.now
    await asked.slow.answer(0.005, 111, at_once=True)
    while asked.slow.now < began + ANEW:
        asked.slow.now += WHILE / 2
        await asked.ask(LISTS, 20)
    assert len(asked.slow.waiting) == 21 + 20 < 121 * LOOKED_AT
    await asked.ask(LISTS, 200)
    assert len(asked.slow.waiting) == 121 * LOOKED_AT // 1 + 1
    await asked.slow.answer(0.005, 51, at_once=True)
    await asked.ask(LISTS, 200)
    assert len(asked.slow.waiting) == 121 * STANDING // 1 + 1


async def test_a_list_is_late_only_while_others_are_refused() -> None:
    """What took long on a quiet server is worth its answer, and so are the last few."""
    asked = Asked.within(0.099)
    await asked.learn(0.005)
    assert not asked.admission.is_late(60.0)
    await asked.ask(LISTS, 50)
    assert asked.admission.is_late(0.05)
    assert not asked.admission.is_late(0.049)
    await asked.slow.answer(0.005, 20 - FEWEST, at_once=True)
    assert not asked.admission.is_late(60.0)
    await asked.ask(LISTS, 20 - FEWEST)
    asked.slow.now += 2 * WHILE
    assert not asked.admission.is_late(60.0)


async def test_a_late_list_is_refused(api: Served) -> None:
    """As one that was not taken in, and counted; events are not."""
    assert (await api.post(LISTS, {"session_id": "s"})).status_code == 200
    asked = list[float]()

    def is_late(seconds: float) -> bool:
        asked.append(seconds)
        return True

    api.app.state.engine.is_late = is_late
    before = refused.collect()[0].samples[0].value
    answer = await api.post(LISTS, {"session_id": "s"})
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert answer.json()["type"] == "/problems/overloaded"
    assert refused.collect()[0].samples[0].value == before + 1
    assert 0 < asked[0] < 60
    assert (await api.click("i0")).status_code == 202


async def test_a_stall_is_no_pace() -> None:
    """One answer that took a second does not turn away those that come after it."""
    asked = Asked.within(0.05)
    await asked.ask(LISTS)
    await asked.slow.answer(1.0)
    await asked.ask(LISTS, 2 * FEWEST)
    assert len(asked.slow.waiting) == 2 * FEWEST


async def test_a_few_are_taken_in_however_slow_they_are() -> None:
    """A server that is slow for another reason still serves."""
    asked = Asked.within(0.001)
    await asked.learn(0.02)
    await asked.ask(LISTS, 50)
    assert len(asked.slow.waiting) == FEWEST


async def test_who_is_refused_is_told_when_to_come_back(settings: Settings) -> None:
    """503 with Retry-After, the metrics count it, and the next one is served."""
    async with running(dataclasses.replace(settings, max_wait=1e-6)) as served:

        async def listed() -> httpx.Response:
            return await served.post(LISTS, {"session_id": "s", "n": 3})

        answers = await asyncio.gather(*(listed() for _ in range(4 * FEWEST)))
        refused = [answer for answer in answers if answer.status_code == 503]
        assert len([answer for answer in answers if answer.status_code == 200]) >= FEWEST
        assert refused
        for answer in refused:
            assert answer.headers["retry-after"] == "1"
            assert answer.json()["type"] == "/problems/overloaded"
        assert (await listed()).status_code == 200
        metrics = (await served.client.get("/metrics")).text
        counted = [line for line in metrics.splitlines() if line.startswith("recsys_requests_refu")]
        assert any(float(line.split()[1]) >= len(refused) for line in counted)
