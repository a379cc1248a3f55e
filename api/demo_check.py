"""`recsys demo --check`: the demo's promises proved through HTTP, without a person."""

import asyncio
import dataclasses
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import orjson
import polars as pl
from rich.console import Console

from api import freshness_check, parity_check
from api.demo_data import EVENTS
from api.demo_page import APP, PEOPLE, PRODUCTS
from api.live_check import CheckError, serving
from recsys.bundle import Bundle
from recsys.cli import progress_bars
from recsys.evaluation.evaluate import evaluate
from recsys.evaluation.split import Split, split
from recsys.evaluation.tables import report_table
from recsys.logs import Log
from recsys.registry import Registry
from recsys.training import train

if TYPE_CHECKING:
    from api.demo import Prepared

PAIRS, CONNECTIONS = 20_000, 64  # clicks, each followed by a list
PARITY_LISTS = 2_500  # at least, of all placements; whole households are replayed
HOLDOUT = "7d"  # of the year, replayed against a model that has not seen it
EVALUATED = 200  # baskets
METRICS = ("hr@20", "ndcg@20")


def run_check(data_dir: Path, prepared: "Prepared", console: Console) -> int:
    """Check what is served and print the result as one line of JSON; 1 if anything is wrong."""
    from api.demo import CONFIG, summary

    start = perf_counter()
    console.print("read your clicks: through the API, its workers and Redis ...")
    with serving(data_dir, APP) as address:
        _check_page(address)
        served = prepared.bundle.config
        fresh = asyncio.run(freshness_check.check(address, PAIRS, CONNECTIONS, config=served))
    console.print(f"read your clicks: {fresh}", highlight=False)

    parts = split(prepared.log, HOLDOUT)
    console.print(f"[dim]{'; '.join(parts.notes)}[/]", highlight=False)
    with progress_bars() as bar:
        bundle = train(parts.train, CONFIG, bar)
        parity = _parity(data_dir, bundle, parts)
        report = evaluate(
            bundle,
            parts.test,
            protocol="rest-of-session",
            max_sessions=EVALUATED,
            progress=bar,
        )
    console.print(report_table(report))
    result = {
        **summary(prepared),
        "read_your_clicks": fresh,
        "parity": dataclasses.asdict(parity),
        "metrics": {
            name: {metric: round(figures[metric], 4) for metric in METRICS}
            for name, figures in report.systems.items()
        },
        "evaluated": {"protocol": report.protocol, "lists": report.samples, "cut": parts.notes[0]},
        "check_seconds": round(perf_counter() - start, 1),
    }
    flaws = list(_flaws(result))
    for flaw in flaws:
        console.print(f"[red]wrong:[/] {flaw}", highlight=False)
    print(orjson.dumps(result).decode(), flush=True)
    return 1 if flaws else 0


def households(log: Log, least: int) -> pl.DataFrame:
    """All events of as many households as it takes for so many events, in time order.

    Whole households, so that a visitor comes back and earlier live sessions count.
    """
    users = (
        log.frame.group_by("user_id")
        .agg(events=pl.len(), baskets=pl.col("session_id").n_unique())
        .sort("baskets", "user_id", descending=[True, False])
        .with_columns(before=pl.col("events").cum_sum() - pl.col("events"))
        .filter(pl.col("before") < least)
    )
    return log.frame.join(users, on="user_id", how="semi", maintain_order="left")


def _parity(data_dir: Path, bundle: Bundle, parts: Split) -> parity_check.Parity:
    with tempfile.TemporaryDirectory(prefix="check-", dir=data_dir) as name:
        folder = Path(name)
        for file in (PRODUCTS, PEOPLE):
            (folder / file).write_bytes((data_dir / file).read_bytes())
        Registry(folder / "bundles").publish(bundle)
        with serving(folder, APP) as address:
            events = -(-PARITY_LISTS // len(bundle.config.placements))
            return parity_check.check(address, bundle, households(parts.test, events))


def _check_page(address: str) -> None:
    for path in ("/demo", "/demo/people", "/demo/products?q=milk"):
        with urllib.request.urlopen(address + path, timeout=10) as answer:
            if answer.status != 200:
                raise CheckError(f"{path} answers {answer.status}")


def _flaws(result: dict[str, Any]) -> Iterator[str]:
    fresh, parity = result["read_your_clicks"], result["parity"]
    if result["events"] != EVENTS:
        yield f"{result['events']} events were read instead of {EVENTS}"
    if fresh["checked"] != PAIRS or fresh["stale"]:
        yield f"{fresh['stale']} stale answers of {fresh['checked']}: {fresh['stale_example']}"
    if parity["lists"] < PARITY_LISTS or parity["differences"]:
        yield f"{parity['differences']} of {parity['lists']} lists differ: {parity['example']}"
