"""What live visitors say of a bundle, on real clicks: --help tells how.

A server with two workers serves a bundle trained on all of the log but its last day, which is then
posted event by event. Bundles that take its place are published past the gate: one that is as good,
and others that are spoiled. Those must be withdrawn by the server itself, and nothing else may.
"""

import argparse
import asyncio
import contextlib
import dataclasses
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import orjson
import polars as pl
from exactly_once import served
from gate_check import FILE, SEED
from rich.console import Console
from threadpoolctl import threadpool_limits

from recsys.bundle import Bundle, sealed
from recsys.config import Config
from recsys.embedded import EmbeddedRedis
from recsys.evaluation.replay import samples
from recsys.evaluation.split import split
from recsys.logs import Log, load_log
from recsys.probation import Counts
from recsys.recommend import Request, recommend
from recsys.registry import Registry, Succession
from recsys.snapshot import told_after
from recsys.store import Store, StoreConfig
from recsys.training import train

CLIENTS = 8  # connections, which the kernel spreads over the workers
PATIENCE = 60.0  # seconds until the workers must have followed the registry
console = Console(stderr=True)


def main() -> int:
    """Post the last day once for each bundle; 0 if those are withdrawn that should be, else 1."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--data", type=Path, required=True, help=f"folder with {FILE}")
    parser.add_argument("--rate", type=float, default=100.0, help="events a second")
    asked = parser.parse_args()
    log = load_log([asked.data / FILE], columns={"session_id": "session", "item_id": "item"})
    cut = split(log, "1d")
    os.environ["RECSYS_QUALITY_SAMPLE"] = "1"
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        registry = Registry(folder / "bundles")
        with threadpool_limits(1):
            first = train(cut.train)
        registry.publish(first)
        redis = stack.enter_context(EmbeddedRedis.start(folder / "redis"))
        _, url = stack.enter_context(served(folder, redis.url))
        clients = [
            stack.enter_context(httpx.Client(base_url=url, timeout=PATIENCE))
            for _ in range(CLIENTS)
        ]
        found: dict[str, dict[str, Any]] = {}
        for kind, (wanted, make) in BUNDLES.items():
            with threadpool_limits(1):
                bundle = make(cut.train, first)
                offline = hit_rate(bundle, cut.test)
            result = live(registry, redis.url, clients, bundle, cut.test.frame, asked.rate)
            found[kind] = {"wanted": wanted, **result, "offline_hit_rate": offline}
            console.print(kind, found[kind])
        skipped = {reason: round(count) for reason, count in unscored(clients[0])}
        told = (folder / "serve.log").read_text()
    console.print(told, highlight=False, markup=False)
    right = all(result["withdrawn"] == result["wanted"] for result in found.values())
    print(orjson.dumps({"right": right, "bundles": found, "unscored": skipped}).decode())
    return 0 if right else 1


def live(
    registry: Registry,
    url: str,
    clients: list[httpx.Client],
    bundle: Bundle,
    frame: pl.DataFrame,
    rate: float,
) -> dict[str, Any]:
    """Publish a bundle and post events until it is withdrawn, or there are no more."""
    before = registry.active()
    registry.publish(bundle)
    follow(clients, bundle.version)
    succession = registry.succession()
    assert succession is not None
    start, posted = time.monotonic(), 0
    for session, item in frame.select("session_id", "item_id").iter_rows():
        event = {"type": "view", "session_id": f"{bundle.version}-{session}", "item_id": item}
        answer = clients[posted % CLIENTS].post("/v1/events", json={"events": [event]})
        answer.raise_for_status()
        posted += 1
        if registry.active() != bundle.version:
            break
        time.sleep(max(0.0, start + posted / rate - time.monotonic()))
    seconds = time.monotonic() - start
    if registry.active() != bundle.version:
        follow(clients, str(before))
    withdrawn = registry.withdrawn(bundle.version)
    counts = asyncio.run(probation(url, succession))
    return {
        "withdrawn": withdrawn is not None,
        "reason": withdrawn and withdrawn["reason"],
        "posted": posted,
        "seconds": round(seconds, 1),
        "hit_rate": counts.own_hits / max(1, counts.scored),
        "former_hit_rate": counts.former_hits / max(1, counts.scored),
        **dataclasses.asdict(counts),
    }


def follow(clients: list[httpx.Client], version: str) -> None:
    """Wait until every worker serves a version."""
    deadline = time.monotonic() + PATIENCE
    while {client.get("/health/ready").json()["bundle"] for client in clients} != {version}:
        if time.monotonic() > deadline:
            raise RuntimeError(f"the workers do not serve {version}")
        time.sleep(0.1)


async def probation(url: str, succession: Succession) -> Counts:
    store = Store(url, StoreConfig(timeout=PATIENCE))
    try:
        return await store.probation(succession.name)
    finally:
        await store.close()


def unscored(client: httpx.Client) -> Iterator[tuple[str, float]]:
    """Why events of the sample were not scored, of both workers."""
    text = client.get("/metrics").text
    for reason, count in re.findall(r'recsys_quality_unscored_total{reason="(\w+)"} (\S+)', text):
        yield reason, float(count)


def hit_rate(bundle: Bundle, test: Log) -> float:
    """The same figure by the offline replay, of all of the last day at its own times."""
    config, request = bundle.config, Request()
    fold = told_after(bundle.snapshot, config, test.frame)
    hits = [
        sample.upcoming[0] in recommend(bundle, sample.moment.session(config), request).item_ids
        for sample in samples(test.frame, config, fold=fold)
    ]
    return sum(hits) / len(hits)


def _again(past: Log, _: Bundle) -> Bundle:
    """The same from another seed."""
    config = Config()
    training = dataclasses.replace(config.training, seed=config.training.seed + 1)
    return train(past, dataclasses.replace(config, training=training))


def _unranked(_: Log, first: Bundle) -> Bundle:
    """The first one, whose ranker is not asked."""
    placements = dict(first.config.placements)
    placements["default"] = dataclasses.replace(placements["default"], ranking="blend")
    return sealed(
        dataclasses.replace(first, config=dataclasses.replace(first.config, placements=placements))
    )


def _tenth(past: Log, _: Bundle) -> Bundle:
    """A tenth of the sessions, drawn."""
    sessions = past.frame.select("session_id").unique(maintain_order=True)
    drawn = sessions.sample(fraction=0.1, seed=SEED)
    return _of(past, past.frame.join(drawn, on="session_id", how="semi", maintain_order="left"))


def _shuffled(past: Log, _: Bundle) -> Bundle:
    """Every item where any other stood."""
    return _of(past, past.frame.with_columns(pl.col("item_id").shuffle(seed=SEED)))


def _of(past: Log, frame: pl.DataFrame) -> Bundle:
    return train(dataclasses.replace(past, frame=frame))


# Name: whether it should be withdrawn, and how it is made of what precedes the last day, or of the
# bundle that serves first.
BUNDLES: dict[str, tuple[bool, Callable[[Log, Bundle], Bundle]]] = {
    "another seed": (False, _again),
    "no ranker": (True, _unranked),
    "a tenth of the sessions": (True, _tenth),
    "items shuffled among sessions": (True, _shuffled),
}


if __name__ == "__main__":
    sys.exit(main())
