"""Measure what keeping accepted events costs: appends per second by persistence, and the reader's.

    python scripts/bench_store.py --events 20000

Settings take turns on servers of their own, in one process and minute; ratios are against no file
at all. Ours is the first: a file that each command is written to before it is answered, flushed to
disk every second.
"""

import argparse
import asyncio
import statistics
import tempfile
import time
from pathlib import Path

import orjson

from recsys import embedded
from recsys.events import Event
from recsys.lake import Lake
from recsys.store import Store, StoreConfig
from recsys.stream import Stream

SETTINGS = {
    "ours: appendfsync no, flushed every second": {},
    "no file": {"appendonly": "no"},
    "appendfsync always": {"appendfsync": "always"},
}
NO_FILE = "no file"
CONNECTIONS = 16  # appends under way at a time


async def append(url: str, namespace: str, events: int, batch: int) -> float:
    """Events accepted per second."""
    store = Store(url, StoreConfig(namespace, timeout=30.0))
    starts = iter(range(0, events, batch))

    async def client() -> None:
        for first in starts:
            await store.append(
                [
                    Event(
                        "view", f"s{k % 997}", f"i{k % 5003}", event_id=f"e{k}", timestamp=1.8e9 + k
                    )
                    for k in range(first, first + batch)
                ]
            )

    await store.ping()
    began = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(CONNECTIONS)))
    rate = events / (time.perf_counter() - began)
    await store.close()
    return rate


def drain(url: str, namespace: str, folder: Path) -> float:
    """Events written into files per second."""
    stream = Stream(url, Lake(folder), StoreConfig(namespace))
    began = time.perf_counter()
    stream.drain()
    return stream.written / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    rates: dict[tuple[str, str], list[float]] = {}
    for turn in range(asked.rounds):
        for name, options in SETTINGS.items():
            before = dict(embedded.OPTIONS)
            embedded.OPTIONS.update(options)
            try:
                with (
                    tempfile.TemporaryDirectory() as folder,
                    embedded.EmbeddedRedis.start(Path(folder) / "redis") as server,
                ):
                    for batch in (1, 50):
                        rate = asyncio.run(
                            append(server.url, f"b{turn}-{batch}", asked.events, batch)
                        )
                        rates.setdefault((name, f"appended, {batch} a call"), []).append(rate)
                    rate = drain(server.url, f"b{turn}-50", Path(folder) / "events")
                    rates.setdefault((name, "written to files"), []).append(rate)
            finally:
                embedded.OPTIONS.clear()
                embedded.OPTIONS.update(before)
    for what in dict.fromkeys(what for _, what in rates):
        base = statistics.median(rates[NO_FILE, what])
        found = {name: statistics.median(rates[name, what]) for name in SETTINGS}
        told = {
            name: {"per_second": round(v), "ratio": round(v / base, 3)} for name, v in found.items()
        }
        print(orjson.dumps({what: told}).decode(), flush=True)


if __name__ == "__main__":
    main()
