"""Bundles are switched under load, and no request fails or mixes two of them: --help tells how.

A server with two workers; two bundles of the same clicks whose items have other names and whose
scores differ. Requests come at a given rate, whether those before were answered or not: lists for
sessions whose lists by each bundle are known from the library, and events of other sessions. Then
the same while the active bundle is switched again and again, as soon as both workers serve the one
before. Each answer must be the list of the bundle that it names, scores too.
"""

import argparse
import asyncio
import contextlib
import dataclasses
import os
import random
import re
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import orjson
import polars as pl
from exactly_once import served, workers_of
from gate_check import FILE
from rich.progress import Progress
from threadpoolctl import threadpool_limits

from api.load import request
from recsys.bundle import Bundle
from recsys.cli import progress_bars
from recsys.config import Config
from recsys.embedded import EmbeddedRedis
from recsys.events import Event
from recsys.logs import Log, load_log
from recsys.recommend import Request, recommend
from recsys.registry import Registry
from recsys.session import Session
from recsys.training import train

SESSIONS = 200  # whose lists are known
LENGTH = 3  # events of each
CONNECTIONS = 64
PROBES = 8  # connections on which is asked what serves; the kernel spreads them over the workers
BASELINE = 20.0  # seconds of load before the first switch
LISTS = 0.8  # share of the requests that ask for a list; the others are events
PATIENCE = 60.0  # seconds for a switch
TOLERANCE = 1e-6  # of a score
ASK = Request(n=20)

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def main() -> int:
    """Print the result as JSON; 0 without an error, a stale or a mixed answer, else 1."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--data", type=Path, required=True, help=f"folder with {FILE}")
    parser.add_argument("--switches", type=int, default=500)
    parser.add_argument("--rate", type=float, default=500.0, help="requests a second")
    parser.add_argument("--poll", type=float, default=0.1, help="seconds between a worker's looks")
    asked = parser.parse_args()
    os.environ["RECSYS_POLL_SECONDS"] = str(asked.poll)
    os.environ["RECSYS_STORE_TIMEOUT"] = "5"  # a busy machine is not what is checked
    log = load_log([asked.data / FILE], columns={"session_id": "session", "item_id": "item"})
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        registry = Registry(folder / "bundles")
        with threadpool_limits(1):
            bundles = [made(log, name, seed) for name, seed in (("a", 1), ("b", 2))]
        for bundle in bundles:
            registry.publish(bundle)
        redis = stack.enter_context(EmbeddedRedis.start(folder / "redis"))
        server, url = stack.enter_context(served(folder, redis.url))
        load = Load(url, bundles, asked.rate)
        bar = stack.enter_context(progress_bars())
        result = asyncio.run(switched(load, registry, server, asked.switches, bar))
        told = (folder / "serve.log").read_text()
    result["loud"] = [line for line in told.splitlines() if not line.startswith("INFO")]
    print(orjson.dumps(result).decode())
    return 0 if not (result["errors"] or result["mixed"] or result["loud"]) else 1


def made(log: Log, name: str, seed: int) -> Bundle:
    """A bundle whose items are named after it; what others do now does not move its scores."""
    frame = log.frame.with_columns(item_id=pl.lit(f"{name}-") + pl.col("item_id"))
    config = Config()
    untold = tuple(dataclasses.replace(one, ranking=False) for one in config.aggregate)
    training = dataclasses.replace(config.training, seed=seed)
    config = dataclasses.replace(config, training=training, aggregate=untold)
    return train(dataclasses.replace(log, frame=frame), config)


async def switched(
    load: "Load", registry: Registry, server: int, switches: int, bar: Progress
) -> dict[str, Any]:
    """Load without and with switches; what came of it."""
    await load.prepare()
    async with asyncio.TaskGroup() as group:
        lanes = [group.create_task(load.lane()) for _ in range(CONNECTIONS)]
        arriving = group.create_task(load.arrive())
        await asyncio.sleep(BASELINE)
        before, load.now = load.now.figures(), Window()
        memory, task = resident(server), bar.add_task("switches", total=switches)
        waits = []
        for k in range(switches):
            version = load.versions[k % 2]
            start = time.monotonic()
            await asyncio.to_thread(registry.activate, version)
            await load.everywhere(version)
            waits.append(time.monotonic() - start)
            bar.update(task, completed=k + 1)
        after = load.now.figures()
        for work in (arriving, *lanes):
            work.cancel()
    return {
        "switches": switches,
        "errors": len(load.errors),
        "error": next(iter(load.errors), None),
        "mixed": len(load.mixed),
        "mix": next(iter(load.mixed), None),
        "answers": dict(load.answers),
        "seconds_per_switch": {f"p{q}": round(quantile(waits, q), 2) for q in (50, 99, 100)},
        "without": before,
        "with": after,
        "resident_mb": {"before": memory, "after": resident(server)},
    }


@dataclass
class Window:
    """A time of load. delays: seconds from when a request was due to its answer."""

    start: float = field(default_factory=time.monotonic)
    delays: list[float] = field(default_factory=list)

    def figures(self) -> dict[str, float]:
        seconds = time.monotonic() - self.start
        ms = {f"p{q}_ms": round(1000 * quantile(self.delays, q), 1) for q in (50, 90, 99, 99.9)}
        return {
            "requests": len(self.delays),
            "requests_per_second": round(len(self.delays) / seconds, 1),
            **ms,
            "max_ms": round(1000 * max(self.delays), 1),
        }


class Load:
    """Requests at a rate, and what became of them."""

    def __init__(self, url: str, bundles: list[Bundle], rate: float) -> None:
        self.url, self.rate = urlsplit(url), rate
        self.versions = [bundle.version for bundle in bundles]
        self.now = Window()
        self.errors: list[str] = []
        self.mixed: list[str] = []
        self.answers: Counter[str] = Counter()
        self._due: asyncio.Queue[float] = asyncio.Queue()
        self._rng = random.Random(7)
        self._visits = {f"known-{k}": self._visit(bundles) for k in range(SESSIONS)}
        self._sessions = list(self._visits)
        self._items = [item for bundle in bundles for item in bundle.items.ids(range(500))]
        self._known = {
            (bundle.version, session): self._list(bundle, session)
            for bundle in bundles
            for session in self._visits
        }

    def _visit(self, bundles: list[Bundle]) -> list[str]:
        """Items that a visitor of all shops at once looks at."""
        rows = self._rng.sample(range(min(len(bundle.items) for bundle in bundles)), LENGTH)
        return [item for bundle in bundles for item in bundle.items.ids(rows)]

    def _list(self, bundle: Bundle, session: str) -> tuple[list[str], list[float]]:
        events = [
            Event("view", session, item, timestamp=float(k))
            for k, item in enumerate(self._visits[session])
        ]
        answer = recommend(bundle, Session.from_events(events, config=bundle.config.session), ASK)
        return answer.item_ids, answer.scores

    async def prepare(self) -> None:
        """Let the server know what the known sessions looked at."""
        connection = await self._connect()
        for session, items in self._visits.items():
            events = [{"type": "view", "session_id": session, "item_id": item} for item in items]
            status, body = await _ask(connection, "POST", "/v1/events", {"events": events})
            assert status == 202, body
        connection[1].close()

    async def arrive(self) -> None:
        """Let requests fall due at the rate."""
        start, count = time.monotonic(), 0
        while True:
            due = start + count / self.rate
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            self._due.put_nowait(due)
            count += 1

    async def lane(self) -> None:
        """Answer what is due on one connection."""
        connection = await self._connect()
        while True:
            due = await self._due.get()
            session = self._rng.choice(self._sessions)
            path, payload = "/v1/recommendations", {"session_id": session, "n": ASK.n}
            if self._rng.random() >= LISTS:
                event = {
                    "type": "view",
                    "session_id": f"other-{self._rng.randrange(5000)}",
                    "item_id": self._rng.choice(self._items),
                }
                path, payload = "/v1/events", {"events": [event]}
            try:
                status, body = await _ask(connection, "POST", path, payload)
            except (OSError, asyncio.IncompleteReadError) as error:
                self.errors.append(f"{path}: {error!r}")
                connection = await self._connect()
                continue
            self.now.delays.append(time.monotonic() - due)
            if status >= 300:
                self.errors.append(f"{path}: {status} {body.decode()}")
            elif path == "/v1/recommendations":
                self._look(session, orjson.loads(body))

    def _look(self, session: str, answer: dict[str, Any]) -> None:
        self.answers[answer["bundle"]] += 1
        ids, scores = self._known[answer["bundle"], session]
        found = [item["item_id"] for item in answer["items"]]
        given = [item["score"] for item in answer["items"]]
        if found != ids or not np.allclose(given, scores, rtol=0, atol=TOLERANCE):
            self.mixed.append(f"{answer['bundle']} for {session}: {found}, not {ids}")

    async def everywhere(self, version: str) -> None:
        """Wait until both workers serve a bundle."""
        async with asyncio.timeout(PATIENCE):
            for _ in range(PROBES):
                connection = await self._connect()
                while True:
                    status, body = await _ask(connection, "GET", "/health/ready")
                    if status >= 300:
                        self.errors.append(f"/health/ready: {status} {body.decode()}")
                    elif orjson.loads(body)["bundle"] == version:
                        break
                    await asyncio.sleep(0.02)
                connection[1].close()

    async def _connect(self) -> Connection:
        return await asyncio.open_connection(self.url.hostname, self.url.port)


async def _ask(
    connection: Connection, method: str, path: str, payload: object = None
) -> tuple[int, bytes]:
    """Status and body."""
    reader, writer = connection
    body = b"" if payload is None else orjson.dumps(payload)
    writer.write(request(method, path, body))
    lines = (await reader.readuntil(b"\r\n\r\n")).lower().split(b"\r\n")
    length = next(int(line[15:]) for line in lines if line.startswith(b"content-length:"))
    return int(lines[0].split()[1]), await reader.readexactly(length)


def quantile(values: list[float], percent: float) -> float:
    return float(np.percentile(values, percent))


def resident(server: int) -> int:
    """Megabytes of the workers' own memory, without what is mapped from files; what several share
    counts once."""
    texts = [Path(f"/proc/{pid}/smaps_rollup").read_text() for pid in workers_of(server)]
    return sum(int(re.findall(r"Pss_Anon:\s+(\d+)", text)[0]) for text in texts) // 1024


if __name__ == "__main__":
    sys.exit(main())
