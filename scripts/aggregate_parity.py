"""Prove that aggregates have the same values over the stream as over a log.

    python scripts/aggregate_parity.py --data ../shared/data

Real events go through Redis, shuffled within two minutes, one in a hundred twice; at five moments
on the way and at the end every value of every key is compared with the batch executor's over the
events that had arrived. Prices and categories are made up from the items' ids; three items in ten
are in two, three in none, and they change between these moments. Prints the greatest differences
and both throughputs.
"""

import argparse
import asyncio
import random
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import orjson
import polars as pl
from rich.console import Console
from rich.progress import Progress

from recsys.aggregate_log import LogFold
from recsys.aggregates import Aggregates
from recsys.config import AGGREGATES, Aggregate, Config
from recsys.embedded import EmbeddedRedis
from recsys.events import TERMS, Event
from recsys.mirror import mirrored
from recsys.store import Store, StoreConfig

SHUFFLED = 120.0  # seconds within which events change places
TWICE = 0.01
TOLERANCE = 1e-9
BATCH, CONNECTIONS, STOPS = 50, 4, 5

DECLARED = (
    *AGGREGATES,
    Aggregate("buys", "decayed_count", "user", types=("purchase",), half_life="30d"),
    Aggregate("day", "window_count", "item", window="1d"),
    Aggregate("week_of_user", "window_count", "user", window="7d"),
    Aggregate("returned", "ratio", "item", types=("remove",), of=("purchase",), half_life="7d"),
    Aggregate("shown", "ratio", "item", types=("click",), of=("impression",), prior=0.1),
    Aggregate("price", "last_value", "item"),
    Aggregate("last_of_session", "last_value", "session"),
    Aggregate("visitors", "unique_sessions", "item", window="12h"),
    Aggregate("visits", "unique_sessions", "user", window="7d"),
    Aggregate("in_row", "co_count", types=("view", "click"), half_life="2h", gap="10m"),
    Aggregate("its_price", "last_value", "item", field="price"),
    Aggregate("of_category", "decayed_count", "category", half_life="6h"),
    Aggregate("its_day", "window_count", "category", window="1d"),
    Aggregate(
        "its_returns", "ratio", "category", types=("remove",), of=("purchase",), half_life="7d"
    ),
    Aggregate("its_visitors", "unique_sessions", "category", window="12h"),
    Aggregate("its_last", "last_value", "category"),
)

console = Console(stderr=True)


@dataclass(frozen=True)
class Outcome:
    """What one log gave. worst: by aggregate the greatest difference of a value over max(1, it)."""

    log: str
    events: int
    duplicates: int
    values: int
    worst: dict[str, float]
    stream_per_second: int
    batch_per_second: int


def online_retail(folder: Path) -> pl.DataFrame:
    """Purchases and returns: an invoice is a session, all of one minute."""
    return pl.read_parquet(folder / "online-retail.parquet").select(
        session_id="InvoiceNo",
        user_id=pl.col("CustomerID").cast(pl.Int64, strict=False).cast(pl.String),
        item_id="StockCode",
        type=pl.when(pl.col("Quantity") < 0).then(pl.lit("remove")).otherwise(pl.lit("purchase")),
        timestamp=pl.col("InvoiceDate").cast(pl.Datetime("us")).dt.epoch("us") / 1e6,
        value=pl.col("UnitPrice").cast(pl.Float64),
    )


def rsc15(folder: Path) -> pl.DataFrame:
    """Clicks of strangers."""
    return pl.read_parquet(folder / "rsc15-100k-clicks.parquet").select(
        session_id=pl.col("session").cast(pl.String),
        user_id=pl.lit(None, pl.String),
        item_id=pl.col("item").cast(pl.String),
        type=pl.lit("view"),
        timestamp=pl.col("timestamp").cast(pl.Float64),
        value=pl.lit(None, pl.Float64),
    )


def trivago(folder: Path) -> pl.DataFrame:
    """Clicks and looks at hotels, and those that were shown beside the one clicked."""
    log = pl.read_parquet(folder / "trivago-100k.parquet").with_columns(
        timestamp=pl.col("timestamp").cast(pl.Float64)
    )
    hotels = log.filter(pl.col("reference").cast(pl.String).str.contains("^[0-9]+$"))
    clicked = pl.col("action_type") == "clickout item"
    acts = hotels.with_columns(
        item_id=pl.col("reference").cast(pl.String),
        type=pl.when(clicked).then(pl.lit("click")).otherwise(pl.lit("view")),
    )
    shown = hotels.filter(clicked).with_columns(
        item_id=pl.col("impressions").str.split("|"), type=pl.lit("impression")
    )
    names = ("session_id", "user_id", "item_id", "type", "timestamp")
    return pl.concat([acts.select(names), shown.explode("item_id").select(names)]).with_columns(
        value=pl.lit(None, pl.Float64)
    )


LOGS = {"online-retail": online_retail, "rsc15-100k": rsc15, "trivago-100k": trivago}


def arrivals(frame: pl.DataFrame, rng: random.Random) -> list[int]:
    """Rows in the order in which they arrive, some of them twice."""
    times = frame["timestamp"].to_list()
    once = [(when + rng.random() * SHUFFLED, row) for row, when in enumerate(times)]
    again = [(due + rng.random() * SHUFFLED, row) for due, row in once if rng.random() < TWICE]
    return [row for _, row in sorted([*once, *again])]


def batches(frame: pl.DataFrame, rows: list[int]) -> Iterator[list[Event]]:
    names = ("type", "session_id", "item_id", "user_id", "event_id", "timestamp", "value")
    told = list(frame.select(names).iter_rows())
    for at in range(0, len(rows), BATCH):
        yield [Event(*told[row]) for row in rows[at : at + BATCH]]


def terms_of(item: str | None, stop: int) -> dict[str, Any]:
    """What is said of an item, from one moment at which values are compared to the next."""
    drawn = zlib.crc32(f"{item} {stop if zlib.crc32((item or '').encode()) % 2 else 0}".encode())
    labels = [f"c{drawn % 97}", f"d{drawn % 13}"][: (0, 0, 0, 1, 1, 1, 1, 2, 2, 2)[drawn % 10]]
    price = {"price": drawn % 10_000 / 100} if drawn % 7 else {}
    return {**price, **({"category": tuple(labels)} if labels else {})}


async def put(store: Store, items: Sequence[str], stop: int) -> None:
    """Have the catalogue say these terms of items."""
    bare = {"price": None, "category": None}
    for at in range(0, len(items), 500):
        part = items[at : at + 500]
        await store.put_items([(item, {**bare, **terms_of(item, stop)}) for item in part])


async def send(store: Store, frame: pl.DataFrame, rows: list[int], tick: Progress) -> int:
    """Append events over several calls at a time; returns how many were duplicates."""
    waiting, duplicates = batches(frame, rows), 0
    task = tick.add_task("stream", total=len(rows))

    async def client() -> None:
        nonlocal duplicates
        for events in waiting:
            found = await store.append(events)
            duplicates += found.duplicates
            tick.advance(task, len(events))

    await asyncio.gather(*(client() for _ in range(CONNECTIONS)))
    tick.remove_task(task)
    return duplicates


def differences(stream: Aggregates, batch: Aggregates) -> tuple[dict[str, float], int]:
    """By aggregate the greatest difference of a value, and how many values were compared."""
    worst, values = {}, 0
    for aggregate in DECLARED:
        here, there = dict(stream.named(aggregate)), dict(batch.named(aggregate))
        keys = here.keys() | there.keys()
        gaps = [
            abs(here.get(key, 0.0) - there.get(key, 0.0)) / max(1.0, abs(there.get(key, 0.0)))
            for key in keys
        ]
        worst[aggregate.name], values = max(gaps, default=0.0), values + len(keys)
    return worst, values


async def compare(name: str, frame: pl.DataFrame, url: str, seed: int) -> Outcome:
    config, rng = Config(aggregate=DECLARED), random.Random(seed)
    frame = frame.with_row_index("event_id").with_columns(
        event_id=pl.format("{}-{}", pl.lit(name), "event_id")
    )
    rows = arrivals(frame, rng)
    limits = {"max_velocity": 1e9, "max_repetition": 10**9, "max_alike": 10**9}
    store = Store(url, StoreConfig(name, timeout=30.0, **limits))
    await mirrored(store, config)
    items = frame["item_id"].drop_nulls().unique().to_list()
    worst: dict[str, float] = {}
    accepted: dict[int, dict[str, Any]] = {}  # by row, the terms when it came first
    values = duplicates = 0
    streamed = folded = 0.0
    with Progress(console=console) as tick:
        for stop in range(1, STOPS + 1):
            first, last = (len(rows) * k // STOPS for k in (stop - 1, stop))
            await put(store, items, stop)
            for row in rows[first:last]:
                accepted.setdefault(row, terms_of(frame["item_id"][row], stop))
            began = time.perf_counter()
            duplicates += await send(store, frame, rows[first:last], tick)
            streamed += time.perf_counter() - began
            stream = await mirrored(store, config, everything=True)
            known = sorted(accepted)
            told = {k: [accepted[row].get(k) for row in known] for k in TERMS}
            arrived = frame[known].with_columns(
                category=pl.Series(told["category"], dtype=pl.List(pl.String)),
                price=pl.Series(told["price"], dtype=pl.Float64),
            )
            began = time.perf_counter()
            batch = LogFold(arrived, DECLARED, config.events).advance()
            folded = time.perf_counter() - began
            found, count = differences(stream.state, batch)
            worst = {k: max(v, worst.get(k, 0.0)) for k, v in found.items()}
            values += count
    await store.close()
    return Outcome(
        log=name,
        events=len(frame),
        duplicates=duplicates,
        values=values,
        worst=worst,
        stream_per_second=round(len(rows) / streamed),
        batch_per_second=round(len(frame) / folded),
    )


def main() -> int:
    """0 where every value is the same, else 1."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the logs")
    parser.add_argument("--logs", default=",".join(LOGS), help="those to take, by name")
    parser.add_argument("--events", type=int, default=10**9, help="of each log, at most")
    parser.add_argument("--seed", type=int, default=42)
    asked = parser.parse_args()
    differ = False
    with (
        tempfile.TemporaryDirectory() as folder,
        EmbeddedRedis.start(Path(folder) / "redis") as server,
    ):
        for name in asked.logs.split(","):
            frame = LOGS[name](asked.data).sort("timestamp").head(asked.events)
            outcome = asyncio.run(compare(name, frame, server.url, asked.seed))
            differ |= max(outcome.worst.values()) > TOLERANCE
            print(orjson.dumps(asdict(outcome)).decode(), flush=True)
    return int(differ)


if __name__ == "__main__":
    sys.exit(main())
