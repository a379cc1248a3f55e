"""Measure what it is worth to be told of items that nobody has touched: --help tells how.

One in so many items of a shop's log is taken out of all that precedes the test part, as if it were
named there for the first time. Bundles trained with and without what the shop says of items, and
with a share of the list for such items, are asked for lists after every event of the test part's
sessions but the last; what is still to come in the session is looked for in them. Nothing is tuned.
"""

import argparse
import dataclasses
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import polars as pl
from rich.box import SIMPLE
from rich.console import Console
from rich.progress import Progress, track
from rich.table import Table
from threadpoolctl import threadpool_limits

from recsys.bundle import Bundle
from recsys.evaluation.replay import samples
from recsys.evaluation.split import split
from recsys.items import Item
from recsys.logs import Log, load_log
from recsys.recommend import Request, recommend
from recsys.training import train

FILE = "online-retail.parquet"
COLUMNS = {
    "user_id": "CustomerID",
    "session_id": "InvoiceNo",
    "item_id": "StockCode",
    "timestamp": "InvoiceDate",
    "value": "Quantity",
}
AT = 20
EXPLORE = (0.05, 0.1)  # shares of the list
DRAWS = 2000  # of the bootstrap, by session
console = Console(stderr=True, width=110)


def main() -> int:
    """Train twice, replay, print what each finds."""
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0])
    parser.add_argument("--data", type=Path, required=True, help=f"folder with {FILE}")
    parser.add_argument("--one-in", type=int, default=20, help="items that are taken out (20)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rehearse", action="store_true", help="leave the last tenth alone")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    asked = parser.parse_args()
    log = load_log([asked.data / FILE], columns=COLUMNS, default_type="purchase")
    log = split(log, "0.1").train if asked.rehearse else log
    parts = split(log, "0.1")
    items = told(asked.data / FILE)
    names = parts.train.frame["item_id"].unique().sort()
    drawn = np.random.default_rng(asked.seed).integers(asked.one_in, size=len(names)) == 0
    out = frozenset(names.filter(drawn).to_list())
    known = parts.train.frame.filter(~pl.col("item_id").is_in(list(out)))
    before = dataclasses.replace(parts.train, frame=known)
    found = {}
    with threadpool_limits(1):
        for name, shop in (("without", {}), ("with", items)):
            start = time.process_time()
            with Progress(console=console) as progress:
                bundle = train(dataclasses.replace(before, items=shop), progress=progress)
            seconds = time.process_time() - start
            found[name] = {"cpu_seconds": round(seconds), **replayed(bundle, parts.test, out)}
            cosine = bundle.facts.metrics.get("attribute_cosine")
            found[name]["attribute_cosine"] = cosine and round(cosine, 3)
        for share in EXPLORE:
            found[f"explore = {share}"] = replayed(exploring(bundle, share), parts.test, out)
    show(found, len(out))
    if asked.json:
        print(orjson.dumps(found).decode())
    return 0


def exploring(bundle: Bundle, share: float) -> Bundle:
    """The bundle with a share of its default lists for items that nobody has touched."""
    config = bundle.config.with_placement("default", explore=share)
    return dataclasses.replace(bundle, config=config)


def told(path: Path) -> dict[str, Item]:
    """The title of every item: the one that it has most often."""
    lines = pl.read_parquet(path, columns=["StockCode", "Description"]).drop_nulls()
    often = lines.group_by("StockCode", "Description").len().sort("len", "Description")
    titles = often.group_by("StockCode", maintain_order=True).last()
    return {code: Item(title=title) for code, title, _ in titles.iter_rows()}


def replayed(bundle: Bundle, test: Log, out: frozenset[str]) -> dict[str, Any]:
    """Of what was still to come, the share in the lists: of items taken out, and of others."""
    counts: dict[str, list[int]] = {}  # by session: hits and wanted, of those taken out and others
    shown = lists = 0
    for session, wanted, answer in track(
        answers(bundle, test), total=len(test.frame), console=console, description="replay"
    ):
        own = counts.setdefault(session, [0, 0, 0, 0])
        there = set(answer)
        for item in wanted:
            place = 0 if item in out else 2
            own[place] += item in there
            own[place + 1] += 1
        shown += sum(item in out for item in answer)
        lists += 1
    table = np.array([*counts.values()])
    rng = np.random.default_rng(0)
    draws = table[rng.integers(len(table), size=(DRAWS, len(table)))].sum(axis=1)
    hits, wanted_out, others, wanted_others = table.sum(axis=0).tolist()
    low, high = np.quantile(draws[:, 0] / np.maximum(draws[:, 1], 1), [0.025, 0.975])
    return {
        "recall": hits / wanted_out,
        "interval": [float(low), float(high)],
        "recall_others": others / wanted_others,
        "wanted": wanted_out,
        "wanted_others": wanted_others,
        "shown_per_list": shown / lists,
    }


def answers(bundle: Bundle, test: Log) -> Iterator[tuple[str, list[str], list[str]]]:
    """The session, what is still to come in it and the list, at every event but the last."""
    for sample in samples(test.frame, bundle.config):
        moment = sample.moment
        answer = recommend(bundle, moment.session(bundle.config), Request(AT))
        yield moment.event.session_id, [*dict.fromkeys(sample.upcoming)], answer.item_ids


def show(found: dict[str, dict[str, Any]], out: int) -> None:
    table = Table(
        *(
            "what the shop says",
            f"recall@{AT} of {out} items",
            "95 %",
            "of others",
            "a list",
            "CPU s",
        ),
        box=SIMPLE,
        title_justify="left",
    )
    for name, row in found.items():
        low, high = row["interval"]
        table.add_row(
            name,
            f"{row['recall']:.4f}",
            f"{low:.4f} - {high:.4f}",
            f"{row['recall_others']:.4f}",
            f"{row['shown_per_list']:.2f}",
            str(row.get("cpu_seconds", "")),
        )
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
