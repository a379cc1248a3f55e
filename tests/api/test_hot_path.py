"""The guard of the hot path: it fails where a list or an event takes twice as much as it did.

Not in seconds, which are the machine's. What Python does is counted in calls, which are the same
everywhere. What is compiled is timed beside a fixed piece of work in the same moment, in processor
time, and the least of many of each are compared. Neighbours on the machine make a list dearer than
they make that piece, for seconds at a time: what seems too much is looked at again.
"""

import dataclasses
import gc
import sys
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from fastapi import FastAPI

from api.settings import Settings
from recsys.bundle import Bundle
from recsys.events import Event
from recsys.recommend import Request, recommend
from recsys.registry import Registry
from recsys.session import Session
from recsys.training import train
from tests.api.conftest import running
from tests.synthetic import small_config, walks
from tests.test_training import RANKED

pytestmark = pytest.mark.anyio

# As they were when somebody last looked, after a change that was meant to cost something.
EVENT_CALLS, LIST_CALLS, LIST_WORK = 208, 1649, 0.46
HEADROOM = 1.5  # a few calls are a feature; half as many again are looked at
LOOKS = 40  # at what takes too much, over some half a minute

Work = Callable[[], Coroutine[Any, Any, None]]


@pytest.fixture(scope="module")
def walked() -> Bundle:
    trained = train(walks(400, items=300), small_config(**RANKED))
    assert trained.facts.ranker.startswith("forest of")
    return trained


def asking(app: FastAPI, path: str, payload: object) -> Work:
    """A request to the application as its server would make it."""
    body = orjson.dumps(payload)
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "path": path,
        "query_string": b"",
        "headers": [(b"content-type", b"application/json")],
    }

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        assert message.get("status", 200) < 300

    async def ask() -> None:
        await app({**scope}, receive, send)

    return ask


async def calls(work: Work) -> int:
    """The fewest calls of functions, Python's and C's, of several times."""
    counts = []
    for _ in range(10):
        await work()
    gc.disable()  # what it would clean up is other tests'
    try:
        for _ in range(20):
            count = 0

            def told(_frame: object, what: str, _argument: object) -> None:
                nonlocal count
                count += what in ("call", "c_call")

            sys.setprofile(told)
            try:
                await work()
            finally:
                sys.setprofile(None)
            counts.append(count)
    finally:
        gc.enable()
    return min(counts)


def yardstick() -> None:
    """Some of what a list is made of: lookups, small arrays, a sort."""
    table = {str(number): number for number in range(200)}
    rows = np.fromiter((table[str(number)] for number in range(0, 200, 3)), np.int32)
    values = np.sqrt(np.arange(4000, dtype=np.float32)).reshape(80, 50)
    for _ in range(20):
        values = values + np.float32(1)
        order = np.argsort(-values[:, 7], kind="stable")
        rows = rows[np.isin(rows, order)]


def work(do: Callable[[], object]) -> float:
    """How many yardsticks it takes, by the least processor time of many of each in turn."""
    least = [np.inf, np.inf]
    for _ in range(300):
        for k, one in enumerate((do, yardstick)):
            start = time.thread_time_ns()
            one()
            least[k] = min(least[k], time.thread_time_ns() - start)
    return least[0] / least[1]


async def twice(work: Work) -> None:
    await work()
    await work()


async def test_an_event_and_a_list_take_no_more_calls(
    settings: Settings, walked: Bundle, tmp_path: Path
) -> None:
    """Than they did; and the guard sees it where they are made twice."""
    Registry(tmp_path / "bundles").publish(walked)
    async with running(dataclasses.replace(settings, data_dir=tmp_path)) as served:
        said = {"type": "view", "session_id": "s", "item_id": walked.items.ids([5])[0]}
        event = asking(served.app, "/v1/events", {"events": [said]})
        wanted = asking(served.app, "/v1/recommendations", {"session_id": "s"})
        for ask, known in ((event, EVENT_CALLS), (wanted, LIST_CALLS)):
            count = await calls(ask)
            assert known / HEADROOM < count < HEADROOM * known
            assert await calls(lambda ask=ask: twice(ask)) > HEADROOM * known


def test_a_list_takes_no_more_work(walked: Bundle) -> None:
    """Than it did beside a fixed piece of work; and the guard sees it where it is made twice."""
    items = walked.items.ids([3, 40, 41, 90, 7])
    events = [Event("view", "s", item, timestamp=float(k)) for k, item in enumerate(items)]
    session = Session.from_events(events, config=walked.config.session)

    def made() -> None:
        recommend(walked, session, Request())

    def made_twice() -> None:
        made()
        made()

    made()
    most = HEADROOM * LIST_WORK
    for _ in range(LOOKS):
        found = work(made)
        if found < most:
            break
        time.sleep(0.5)
    assert LIST_WORK / HEADROOM < found < most
    assert work(made_twice) > most
