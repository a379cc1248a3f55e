"""Every event acknowledged is in the files once, while everything is killed again and again.

A server with two workers and two readers of its live log run on one Redis. Clients post events, and
each batch again until it is acknowledged; workers, readers and Redis are ended with SIGKILL at
random. Half of the aggregates are declared from the start, the others in the middle, so that files
have to fill them in. Then the files are read as training reads them, and compared with what was
acknowledged; and every value of the aggregates in Redis with the batch executor's over the files.
"""

import argparse
import asyncio
import contextlib
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import orjson
import polars as pl
from aggregate_parity import DECLARED, TOLERANCE, differences
from rich.console import Console

from recsys.aggregate_log import LogFold
from recsys.config import Config
from recsys.embedded import OPTIONS, EmbeddedRedis
from recsys.logs import load_log
from recsys.mirror import Mirror, mirrored
from recsys.store import Store, StoreConfig, StoreUnavailable

console = Console(stderr=True)

BATCH = 50  # events posted at a time
CLIENTS = 4
PATIENCE = 60.0  # seconds until a client gives up on a server that does not answer
KINDS = ("worker", "reader", "redis")
FLAWS = ("lost", "twice", "strange", "wrong_answers", "aggregates_that_differ")
CONFIG = Config(aggregate=DECLARED)
FIRST = Config(aggregate=DECLARED[::2])  # what is declared before anything comes


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=200_000)
    parser.add_argument("--kills", type=int, default=20, help="of workers, of readers, of Redis")
    parser.add_argument("--seed", type=int, default=42)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = run(Path(folder), asked.events, asked.kills, random.Random(asked.seed))
        if any(result[flaw] for flaw in FLAWS):
            for log in ("serve.log", "stream.log"):
                console.print(f"{log}:\n{(Path(folder) / log).read_text()[-20_000:]}", markup=False)
    print(orjson.dumps(result).decode())
    return 0 if not any(result[flaw] for flaw in FLAWS) else 1


def run(folder: Path, events: int, kills: int, rng: random.Random) -> dict[str, float]:
    """Post, kill, read the files; what came of it."""
    start = time.monotonic()
    with EmbeddedRedis.start(folder / "redis") as redis:
        asyncio.run(looked_at(redis.url, FIRST))
        declared = False
        with served(folder, redis.url) as (server, url), readers(folder, redis.url) as running:
            posted = Posted(url, events)
            threads = [threading.Thread(target=posted.post, args=(k,)) for k in range(CLIENTS)]
            for thread in threads:
                thread.start()
            killed = dict.fromkeys(KINDS, 0)
            while any(thread.is_alive() for thread in threads):
                # Evenly over the events, which wait where they would get ahead.
                share = len(posted.acknowledged) / events
                posted.allowed = min(killed.values()) / kills + 0.1 if kills else 1.0
                due = [kind for kind in KINDS if killed[kind] < kills * min(1.0, share + 0.02)]
                if due:
                    kind = rng.choice(due)
                    if victim := victim_of(kind, server, running, redis, rng):
                        with contextlib.suppress(ProcessLookupError):
                            os.kill(victim, signal.SIGKILL)
                            killed[kind] += 1
                if not declared and share > 0.5:
                    # As a worker with another bundle does, and again where Redis dies meanwhile.
                    with contextlib.suppress(StoreUnavailable):
                        asyncio.run(looked_at(redis.url, CONFIG))
                        declared = True
                time.sleep(rng.uniform(0.05, 0.3))
            for thread in threads:
                thread.join()
            posting = time.monotonic() - start
        # Nobody is left who writes: what remains is written by one that nobody kills.
        last = reader(folder, redis.url, "--once")
        if last.wait() != 0:
            raise RuntimeError("the last reader failed")
        mirror = asyncio.run(looked_at(redis.url, CONFIG, declare=False))
    log = load_log([folder / "events"], now=time.time() + 10)
    files = sorted((folder / "events").glob("*/[!.]*.parquet"))
    rows = pl.concat([pl.read_parquet(file) for file in files])
    found = rows["event_id"]
    worst, values = differences(mirror.state, LogFold(rows, DECLARED, CONFIG.events).advance())
    for name, path, row in twice(files):
        console.print(f"twice: {name} in {path.name}, row {row}")
    acknowledged = set(posted.acknowledged)
    return {
        "acknowledged": len(acknowledged),
        "in_files": len(found),
        "lost": len(acknowledged - set(found)),
        "twice": len(found) - found.n_unique(),
        "strange": len(set(found) - posted.sent),
        "kept_by_load_log": log.kept,
        "files": len(files),
        "aggregate_values": values,
        "aggregates_that_differ": sum(gap > TOLERANCE for gap in worst.values()),
        "greatest_difference": max(worst.values()),
        **{f"killed_{kind}": count for kind, count in killed.items()},
        "failed_posts": posted.failed,
        "wrong_answers": posted.wrong,
        "seconds": round(posting, 1),
        "events_per_second": round(len(acknowledged) / posting),
        "appendonly": OPTIONS["appendonly"] == "yes",
    }


async def looked_at(url: str, config: Config, *, declare: bool = True) -> Mirror:
    """The aggregates in Redis. Raises StoreUnavailable."""
    store = Store(url, StoreConfig(timeout=PATIENCE))
    try:
        return await mirrored(store, config, declare=declare, everything=True)
    finally:
        await store.close()


def twice(files: list[Path]) -> Iterator[tuple[str, Path, int]]:
    """Every place of an event id that has several."""
    places: dict[str, list[tuple[Path, int]]] = {}
    for file in files:
        for row, name in enumerate(pl.read_parquet(file)["event_id"]):
            places.setdefault(name, []).append((file, row))
    for name, found in places.items():
        if len(found) > 1:
            yield from ((name, path, row) for path, row in found)


class Posted:
    """Clients that post events until each batch was acknowledged.

    acknowledged: ids of events. failed: posts without an answer, or with the 503 that says to try
    again. wrong: other answers. allowed: the share of the events above which they wait.
    """

    def __init__(self, url: str, events: int) -> None:
        self.url = url
        self.acknowledged: list[str] = []
        self.sent: set[str] = set()
        self.failed = self.wrong = 0
        self.allowed = 1.0
        self._batches = iter(range(0, events, BATCH))
        self._events = events
        self._lock = threading.Lock()

    def post(self, client: int) -> None:
        rng = random.Random(client)
        with httpx.Client(base_url=self.url, timeout=10) as connection:
            while True:
                while len(self.acknowledged) > self.allowed * self._events:
                    time.sleep(0.05)
                with self._lock:
                    first = next(self._batches, None)
                if first is None:
                    return
                now = time.time()
                names = [f"e{k}" for k in range(first, min(first + BATCH, self._events))]
                batch = [
                    {
                        "type": "view",
                        "event_id": name,
                        "session_id": f"s{rng.randrange(2000)}",
                        "item_id": f"i{rng.randrange(500)}",
                        "timestamp": now - rng.choice([0, 0, 0, 30, 4000]),
                    }
                    for name in names
                ]
                self.sent.update(names)
                gives_up = now + PATIENCE
                while not self._acknowledged(connection, batch):
                    if time.time() > gives_up:
                        raise RuntimeError(f"{self.url} has not answered for {PATIENCE:.0f} s")
                    self.failed += 1
                    time.sleep(0.1)
                self.acknowledged += names

    def _acknowledged(self, connection: httpx.Client, batch: list[dict[str, object]]) -> bool:
        try:
            answer = connection.post("/v1/events", json={"events": batch})
        except httpx.TransportError:
            return False
        if answer.status_code not in (202, 503):
            self.wrong += 1
            console.print(f"{answer.status_code}: {answer.text}")
        return answer.status_code == 202


@contextlib.contextmanager
def served(folder: Path, url: str) -> Iterator[tuple[int, str]]:
    """`recsys serve`: its pid and its address."""
    command = [sys.executable, "-m", "recsys.cli", "serve", "--port", "0"]
    command += ["--data-dir", str(folder), "--redis-url", url, "--workers", "2"]
    errors = (folder / "serve.log").open("w")
    # Each of the few sessions does in seconds what visitors do in a day.
    limits = ("RECSYS_MAX_VELOCITY", "RECSYS_MAX_REPETITION", "RECSYS_MAX_ALIKE")
    environment = dict.fromkeys(limits, "1000000000")
    with (
        errors,
        subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env={**os.environ, **environment},
        ) as own,
    ):
        assert own.stdout is not None
        address = re.search(r"http://[\d.:]+", own.stdout.readline())
        assert address, (folder / "serve.log").read_text()
        try:
            yield own.pid, address[0]
        finally:
            own.terminate()


@contextlib.contextmanager
def readers(folder: Path, url: str) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Two `recsys stream`, started again where one died."""
    running = [reader(folder, url, "--every", "1") for _ in range(2)]
    stop = threading.Event()

    def attend() -> None:
        while not stop.wait(0.2):
            for k, process in enumerate(running):
                if process.poll() is not None and not stop.is_set():
                    running[k] = reader(folder, url, "--every", "1")

    thread = threading.Thread(target=attend)
    thread.start()
    try:
        yield running
    finally:
        stop.set()
        thread.join()
        for process in running:
            process.terminate()
        for process in running:
            process.wait(60)


def reader(folder: Path, url: str, *options: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "recsys.cli", "stream", "--redis-url", url]
    with (folder / "stream.log").open("ab") as errors:
        return subprocess.Popen(
            [*command, "--data-dir", str(folder), *options], stderr=errors, stdout=errors
        )


def victim_of(
    kind: str,
    server: int,
    running: list[subprocess.Popen[bytes]],
    redis: EmbeddedRedis,
    rng: random.Random,
) -> int | None:
    """A process to kill; None where there is none just now."""
    if kind == "redis":
        return redis.pid
    if kind == "reader":
        return rng.choice(running).pid
    workers = workers_of(server)
    return rng.choice(workers) if workers else None


def workers_of(server: int) -> list[int]:
    """The pids of the workers of a `recsys serve`: children of its supervisor, by their name."""
    found = [pid for child in _children(server) for pid in _children(child)]
    return [pid for pid in found if _read(pid, "comm") == "recsys-worker\n"]


def _children(pid: int) -> list[int]:
    threads = [path.name for path in Path(f"/proc/{pid}/task").glob("*")]
    return [int(child) for t in threads for child in _read(pid, f"task/{t}/children").split()]


def _read(pid: int, name: str) -> str:
    """What the kernel says of a process, nothing where that has just ended."""
    try:
        return Path(f"/proc/{pid}/{name}").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""


if __name__ == "__main__":
    sys.exit(main())
