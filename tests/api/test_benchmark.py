"""`recsys benchmark serving`: what it sends, counts and says."""

import asyncio
import contextlib
import ctypes
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import orjson
import pytest
from rich.console import Console

from api import benchmark, load
from recsys.bundle import Bundle
from recsys.events import InputError
from recsys.registry import Registry, RegistryError
from recsys.training import train
from tests.synthetic import small_config, walks

pytestmark = pytest.mark.anyio

HOST = "127.0.0.1:80"


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return train(walks(60, items=20), small_config(ranker={"enabled": False}))


@contextlib.asynccontextmanager
async def answering(answer: Callable[[bytes, int], tuple[int, float]]) -> AsyncIterator[str]:
    """A server that answers requests, by their path and number, with a status, after a time."""
    number = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal number
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
                await reader.readexactly(length)
                status, seconds = answer(head.split()[1], number)
                number += 1
                await asyncio.sleep(seconds)
                if not status:
                    break
                body = b'{"timings": {"total": 1}}'
                # In two pieces, as they may come over a network.
                text = f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\n\r\n".encode()
                writer.write(text + body[:5])
                await writer.drain()
                writer.write(body[5:])
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


def test_visits_are_those_of_a_shop(bundle: Bundle) -> None:
    """Few visitors come often, sessions end, items are the bundle's, and the same seed gives the
    same."""
    visits = list(load.visits_of(bundle, 800, HOST, seed=3, timed=10))
    bodies = [orjson.loads(visit.event.split(b"\r\n\r\n")[1])["events"][0] for visit in visits]
    lists = [orjson.loads(visit.list.split(b"\r\n\r\n")[1]) for visit in visits]
    sessions = [body["session_id"] for body in bodies]
    assert sessions == [wanted["session_id"] for wanted in lists]
    assert all(body["item_id"] in bundle.items for body in bodies)
    lengths = np.bincount(np.unique(sessions, return_inverse=True)[1])
    assert lengths.max() <= load.LONGEST
    visitors = [session.split("-")[2] for session in sessions]
    often = np.sort(np.bincount(np.unique(visitors, return_inverse=True)[1]))[::-1]
    assert often[0] > 5 * often.mean()
    assert sum(wanted["timings"] for wanted in lists) == 80
    assert list(load.visits_of(bundle, 800, HOST, seed=3, timed=10)) == visits
    times = load.due(4000, 100.0, seed=1)
    assert times[-1] == pytest.approx(40, rel=0.1)


async def test_a_late_answer_counts_from_when_its_visit_was_due(bundle: Bundle) -> None:
    """What waits behind a slow answer has waited, though nothing was sent meanwhile."""
    visits = list(load.visits_of(bundle, 4, HOST))
    async with answering(lambda _, number: (200, 0.2 if number == 0 else 0.0)) as url:
        outcome = await load.run(url, visits, np.array([0.0, 0.01, 0.02, 0.03]), connections=1)
    assert outcome.statuses == {200: 8}
    assert min(outcome.events) > 150
    assert max(outcome.lists) < 150
    assert len(outcome.visits) == 4
    assert len(outcome.answers) == 4


@pytest.mark.parametrize(
    "system",
    [ctypes.CDLL(None), SimpleNamespace(), SimpleNamespace(timerfd_create=lambda *_: -1)],
)
async def test_visits_begin_when_they_are_due(
    bundle: Bundle, system: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not before, in their order and all of them, whether or not the system has precise timers."""
    monkeypatch.setattr(ctypes, "CDLL", lambda _: system)
    visits = list(load.visits_of(bundle, 4, HOST))
    due = np.array([0.0, 0.05, 0.05, 0.1])
    arrivals: list[float] = []

    def answer(path: bytes, _: int) -> tuple[int, float]:
        if path == b"/v1/events":
            arrivals.append(time.perf_counter())
        return 200, 0.0

    async with answering(answer) as url:
        began = time.perf_counter()
        outcome = await load.run(url, visits, due, connections=4)
    assert len(outcome.visits) == 4
    assert all(arrival - began >= moment for arrival, moment in zip(arrivals, due, strict=True))


async def test_connections_that_the_server_ends_while_they_are_idle(bundle: Bundle) -> None:
    """They are made anew; where that cannot be it is said, rather than waited for."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.TimeoutError, asyncio.IncompleteReadError):
            while True:
                head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 0.3)
                await reader.readexactly(int(head.lower().split(b"content-length:")[1].split()[0]))
                writer.write(b"HTTP/1.1 200 X\r\nContent-Length: 2\r\n\r\n{}")
        writer.close()

    visits = list(load.visits_of(bundle, 2, HOST))
    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        outcome = await load.run(url, visits, np.array([0.0, 0.5]), connections=3)
        assert len(outcome.visits) == 2
        lonely = load.run(url, visits, np.array([0.0, 1.0]), connections=1)
        going = asyncio.create_task(lonely)
        await asyncio.sleep(0.1)
        server.close()
        with pytest.raises(ConnectionError):
            await asyncio.wait_for(going, 10)


async def test_visits_follow_each_other_where_as_many_as_possible_are_made(bundle: Bundle) -> None:
    """An event that is refused has no list; a list alone has no event; all are counted."""
    visits = list(load.visits_of(bundle, 30, HOST))
    paths: list[bytes] = []

    def answer(path: bytes, number: int) -> tuple[int, float]:
        paths.append(path)
        refused = path == b"/v1/events" and paths.count(path) % 5 == 0
        return (503 if refused else 202), 0.0

    async with answering(answer) as url:
        outcome = await load.run(url, visits, None, connections=4)
        assert len(outcome.events) == 24
        assert outcome.statuses[503] == len(outcome.refusals) == 6
        assert 0 < outcome.settled <= outcome.seconds
        assert len(outcome.visits) == 24
        assert paths.count(b"/v1/recommendations") == len(outcome.lists)
        alone = [load.Visit(b"", visit.list) for visit in visits]
        outcome = await load.run(url, alone, None, connections=4)
    assert (len(outcome.events), len(outcome.lists)) == (0, 30)


async def test_a_connection_that_ends_is_said(bundle: Bundle) -> None:
    """Rather than waited for."""
    async with answering(lambda _, number: (0 if number == 3 else 200, 0.0)) as url:
        with pytest.raises(ConnectionError, match="the server ended a connection"):
            await load.run(url, list(load.visits_of(bundle, 30, HOST)), None, connections=2)


def test_lists_alone_are_of_sessions_that_there_are(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many more of them than of visits are asked for; and the limit's are the same."""
    made: dict[str, set[str]] = {}
    asked: dict[str, list[str]] = {}

    async def run(url: str, visits: list[load.Visit], *_: object) -> load.Outcome:
        for visit in visits:
            session = orjson.loads(visit.list.split(b"\r\n\r\n")[1])["session_id"]
            if visit.event:
                made.setdefault(url, set()).add(session)
            else:
                asked.setdefault(url, []).append(session)
        return load.Outcome(seconds=len(visits) / (1000 if visits[0].event else 4000))

    @contextlib.contextmanager
    def served(_: Bundle, app: str = "api.app", *__: object) -> Iterator[str]:
        yield f"http://{app.partition(':')[0]}"

    monkeypatch.setattr(benchmark, "_served", served)
    monkeypatch.setattr(load, "run", run)
    Registry(tmp_path / "bundles").publish(bundle)
    benchmark.benchmark_serving(tmp_path, [], 0.5, Console(quiet=True))
    one, limit = asked.values()
    assert len(one) >= 2000
    assert one == limit
    assert all(set(lists) <= made[url] for url, lists in asked.items())


def test_a_bundle_is_measured(bundle: Bundle, tmp_path: Path) -> None:
    """On the real server, beside its limit: every figure there is, nothing refused, a picture."""
    Registry(tmp_path / "bundles").publish(bundle)
    console = Console(stderr=True, width=120)
    found = benchmark.benchmark_serving(
        tmp_path, [40.0], 0.5, console, tmp_path / "load.png", overload=0.5, warm_up=20
    )
    rows = [*found["rates"], found["saturated"], found["lists"], found["limit"]]
    rows += found["limit_rates"]
    assert all(set(row["statuses"]) <= {"200", "202"} for row in rows)
    assert found["rates"][0]["visits"] == found["limit_rates"][0]["visits"] == 20
    assert {"store_read", "rank", "total"} <= set(found["saturated"]["stages_us"])
    during, after = (found["overload"][name] for name in ("during", "after"))
    assert set(during["statuses"]) <= {"200", "202", "503"}
    assert len(during["event_ms"]) == len(benchmark.PERCENTILES) + 1
    assert 0 <= after["settled_s"] < 2 * benchmark.AFTER
    for name in ("cpu_ms_per_visit", "memory_mb"):
        assert {"load", "workers", "reader", "redis"} <= set(found["saturated"][name])
    assert found["limit"]["bytes"] == found["lists"]["bytes"] > 500
    assert found["ratio_to_limit"] > 0
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "bundles",
        "load.png",
    ]  # no events of it
    assert (tmp_path / "load.png").stat().st_size > 10_000
    for table in benchmark.tables(found):
        console.print(table)


def test_wrong_input_is_explained(tmp_path: Path) -> None:
    """Rates and times that are none, and a folder without a bundle."""
    console = Console(stderr=True)
    with pytest.raises(InputError, match="must be above 0"):
        benchmark.benchmark_serving(tmp_path, [0.0], 1.0, console)
    with pytest.raises(RegistryError):
        benchmark.benchmark_serving(tmp_path, [1.0], 1.0, console)
