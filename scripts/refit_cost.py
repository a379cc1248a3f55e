"""Measure what a refit costs and is worth beside a full training: --help tells how.

Of the training part of a log (split 0) the end is held out to judge by. What precedes it is trained
on in full; and once more without its newest part, which a refit then brings in, at once and in
steps. CPU seconds are of this process, user and system, all threads.
"""

import argparse
import dataclasses
import sys
import time
from collections.abc import Callable, Collection
from pathlib import Path

import numpy as np
import orjson
import polars as pl
from numpy.typing import NDArray
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from threadpoolctl import threadpool_limits

from recsys import bundle as bundles
from recsys.aggregate_log import told_to_ranker
from recsys.bundle import Bundle
from recsys.evaluation.evaluate import drawn
from recsys.evaluation.replay import samples
from recsys.evaluation.split import split
from recsys.logs import Log, log_from_frame
from recsys.metrics import bootstrap_means, hit_rate, mrr, relative_lift
from recsys.recommend import Request, recommend
from recsys.refit import refit
from recsys.training import train

AT, SEED = 20, 7
MOST_COST, LEAST_QUALITY = 0.2, 0.98  # of a full training's
console = Console(stderr=True, width=120)


def main() -> int:
    """Compare; 0 if a refit of all that is new is cheap and good enough, else 1."""
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the file")
    parser.add_argument("--file", default="diginetica-sessions.parquet")
    parser.add_argument("--judge", default="4%", help="held out at the end of split 0 (4%%)")
    parser.add_argument("--new", default="8%", help="what the refit brings in (8%%)")
    parser.add_argument("--steps", type=int, default=8, help="refits that bring it in one by one")
    parser.add_argument("--sessions", type=int, default=8000, help="drawn to judge by (8000)")
    parser.add_argument("--keep", type=Path, help="where full trainings are kept and looked for")
    asked = parser.parse_args()
    frame = pl.read_parquet(asked.data / asked.file).filter(pl.col("split") == 0)
    columns = {"session_id": "session", "item_id": "item"}
    judged = split(log_from_frame(frame, columns=columns), asked.judge)
    whole, older = judged.train, split(judged.train, asked.new).train
    console.print(f"{len(older.frame):,} events, {len(whole.frame) - len(older.frame):,} new")
    with threadpool_limits(1):
        active, _ = _kept(asked.keep, "older", lambda: train(older))
        refit(active, whole)  # what is compiled at its first use is no part of the cost
        full, cost = _kept(asked.keep, "whole", lambda: train(whole))
        once, cost_once = _timed(lambda: refit(active, whole))
        stepwise, costs = active, []
        for log in _grown(older, whole, asked.steps):
            stepwise, spent = _timed(lambda start=stepwise, log=log: refit(start, log))
            costs.append(spent)
        systems = {
            "full training": (full, cost),
            "refit": (once, cost_once),
            f"{asked.steps} refits": (stepwise, sum(costs)),
            "not refitted": (active, 0.0),
        }
        compared = [bundle for bundle, _ in systems.values()]
        asking = drawn(judged.test, asked.sessions, SEED)
        values, sessions = _values(compared, whole, judged.test, asking)
    found = {
        name: {"cpu_seconds": spent, "cost": spent / cost, **_quality(values, sessions, k)}
        for k, (name, (_, spent)) in enumerate(systems.items())
    }
    console.print(_table(found))
    console.print(f"each of the {asked.steps}: {', '.join(f'{c:.1f}' for c in costs)} CPU seconds")
    one = found["refit"]
    good = one["cost"] <= MOST_COST and min(one["hr_ratio"], one["mrr_ratio"]) >= LEAST_QUALITY
    told = {"good": good, "requests": len(values), "systems": found, "steps_cpu_seconds": costs}
    print(orjson.dumps(told).decode())
    return 0 if good else 1


def _grown(older: Log, whole: Log, steps: int) -> list[Log]:
    """The log as it grew from one to the other."""
    new = len(whole.frame) - len(older.frame)
    ends = [len(older.frame) + round(new * k / steps) for k in range(1, steps + 1)]
    return [dataclasses.replace(whole, frame=whole.frame.head(end)) for end in ends]


def _timed(make: Callable[[], Bundle]) -> tuple[Bundle, float]:
    """A bundle and the CPU seconds it took."""
    start = time.process_time()
    bundle = make()
    return bundle, time.process_time() - start


def _kept(folder: Path | None, name: str, make: Callable[[], Bundle]) -> tuple[Bundle, float]:
    """The same, from an earlier run if it is there."""
    place = folder / name if folder else None
    if place and (place / "cost").exists():
        return bundles.load(place), float((place / "cost").read_text())
    bundle, cost = _timed(make)
    console.print(f"{name}: {cost:.0f} CPU seconds", highlight=False)
    if place:
        place.mkdir(parents=True)
        bundles.save(bundle, place)
        (place / "cost").write_text(str(cost))
    return bundle, cost


def _values(
    systems: list[Bundle], past: Log, test: Log, only: Collection[str] | None
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """HR and MRR of each system at every prefix, [requests, 2, systems], and whose they are."""
    values, sessions = [], []
    config = systems[0].config
    fold = told_to_ranker(config, test.frame, past.frame)
    for sample in samples(test.frame, config, only=only, fold=fold):
        session = sample.moment.session(config)
        hits = np.zeros((len(systems), AT), dtype=bool)
        for k, bundle in enumerate(systems):
            shown = recommend(bundle, session, Request(AT)).item_ids
            hits[k, : len(shown)] = [item == sample.upcoming[0] for item in shown]
        ones = np.ones(len(systems), dtype=np.int64)
        values.append((hit_rate(hits, ones, AT), mrr(hits, ones, AT)))
        sessions.append(sample.moment.event.session_id)
    return np.array(values), np.unique(sessions, return_inverse=True)[1]


def _quality(
    values: NDArray[np.float64], sessions: NDArray[np.int64], system: int
) -> dict[str, float]:
    """Of one system, and as a share of the first with the lower end of its 95 % interval."""
    found = {}
    for k, name in enumerate(("hr", "mrr")):
        pair = values[:, k, [0, system]]
        lift = relative_lift(*pair.T, bootstrap_means(pair, sessions, seed=SEED))
        found[f"{name}@{AT}"] = float(pair[:, 1].mean())
        found[f"{name}_ratio"] = 1 + (lift.value or 0.0)
        found[f"{name}_ratio_low"] = 1 + (lift.low or 0.0)
    return found


def _table(found: dict[str, dict[str, float]]) -> Table:
    table = Table("", "CPU s", "of full", "P@20", "of full", "MRR@20", "of full", box=SIMPLE)
    for name, row in found.items():
        shares = [
            f"{row[f'{m}_ratio']:.1%} [{row[f'{m}_ratio_low']:.1%}, …]" for m in ("hr", "mrr")
        ]
        figures = [f"{row[f'{m}@{AT}']:.2%}" for m in ("hr", "mrr")]
        cost = [f"{row['cpu_seconds']:.1f}", f"{row['cost']:.1%}"]
        table.add_row(name, *cost, figures[0], shares[0], figures[1], shares[1])
    return table


if __name__ == "__main__":
    sys.exit(main())
