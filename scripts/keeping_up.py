"""Measure what keeping up is worth: --help tells how.

Real clicks are replayed in the order of their times. Each way to keep up begins with the same
bundle, trained on what precedes the replay, and makes its next ones from what had happened by then;
a bundle serves from that moment on, and after the CPU seconds that it took. After every click but a
session's last each way is asked for a list; the next click is looked for in it, repeats allowed.
Nothing is tuned.
"""

import argparse
import dataclasses
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.box import SIMPLE
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from threadpoolctl import threadpool_limits

from recsys.aggregate_log import told_to_ranker
from recsys.bundle import Bundle
from recsys.evaluation.replay import samples
from recsys.logs import Log, load_log
from recsys.recommend import Request, recommend
from recsys.refit import refit
from recsys.training import train

FILE = "rsc15-100k-clicks.parquet"
AT = 20
HOUR, DAY = 3600.0, 86400.0
SMOOTH = 6  # hours that the thick lines of the plot are the mean of
FEWEST = 10  # requests in these, to draw the line at all
console = Console(stderr=True, width=110)


@dataclass(frozen=True)
class Way:
    """How a bundle is kept up: seconds between full trainings and between refits, 0 for none."""

    retrain: float = 0.0
    refit: float = 0.0


WAYS = {
    "static": Way(),
    "daily": Way(retrain=DAY),
    "hourly": Way(retrain=HOUR),
    "incremental": Way(retrain=DAY, refit=600.0),
    "refits alone": Way(refit=600.0),
}


@dataclass(frozen=True)
class Step:
    """A bundle, when it began to serve, and what it cost in CPU seconds."""

    since: float
    bundle: Bundle
    cost: float
    refitted: bool = False


def main() -> int:
    """Replay, print what each way brings and costs, and draw it."""
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0])
    parser.add_argument("--data", type=Path, required=True, help=f"folder with {FILE}")
    parser.add_argument("--days", type=float, default=5.0, help="replayed, at the log's end (5)")
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument(
        "--results",
        type=Path,
        required=True,
        help="a JSON file; ways that it has are not measured again",
    )
    parser.add_argument("--plot", type=Path, help="a picture: .png or .svg")
    asked = parser.parse_args()
    log = load_log([asked.data / FILE], columns={"session_id": "session", "item_id": "item"})
    start = float(log.frame["timestamp"][-1]) - asked.days * DAY
    found = orjson.loads(asked.results.read_bytes()) if asked.results.exists() else {}
    with threadpool_limits(1), Progress(console=console) as progress:
        first = None
        for name in asked.ways:
            if name not in found:
                first = first or _step(lambda: train(_before(log, start)), start)
                found[name] = _replayed(log, start, WAYS[name], first, progress, name)
                asked.results.write_bytes(orjson.dumps(found, option=orjson.OPT_INDENT_2))
    shown = {name: found[name] for name in asked.ways}
    console.print(_table(shown))
    if asked.plot:
        _draw(shown, asked.plot)
    print(orjson.dumps({name: way["summary"] for name, way in shown.items()}).decode())
    return 0


def _replayed(
    log: Log, start: float, way: Way, first: Step, progress: Progress, name: str
) -> dict[str, Any]:
    """What one way brings, hour by hour, and what it costs."""
    hours = int((float(log.frame["timestamp"][-1]) - start) // HOUR) + 1
    # Requests and hits, of all and of those whose target the first bundle does not know.
    counts = np.zeros((hours, 4), dtype=np.int64)
    steps, serving = [first], first
    waiting = _steps(log, start, way, first)
    coming = next(waiting, None)
    task = progress.add_task(name, total=len(log.frame))
    config = first.bundle.config
    fold = told_to_ranker(config, log.frame)
    for sample in samples(log.frame, config, fold=fold):
        moment = sample.moment
        progress.update(task, completed=moment.row)
        now = moment.event.timestamp
        if now < start:
            continue
        while coming and coming.since <= now:
            serving = coming
            # Without the bundle: hundreds of them would fill the memory.
            steps.append(dataclasses.replace(serving, bundle=first.bundle))
            coming = next(waiting, None)
        answer = recommend(serving.bundle, moment.session(serving.bundle.config), Request(AT))
        target = sample.upcoming[0]
        hit, new = target in answer.item_ids, target not in first.bundle.items
        counts[int((now - start) // HOUR)] += (1, hit, new, hit and new)
    progress.update(task, completed=len(log.frame))
    later = steps[1:]
    asked, hits, asked_new, hits_new = counts.sum(axis=0).tolist()
    return {
        "summary": {
            "hr@20": hits / asked,
            "hr@20_new": hits_new / asked_new if asked_new else None,
            "requests": asked,
            "requests_new": asked_new,
            "trainings": sum(not step.refitted for step in later),
            "refits": sum(step.refitted for step in later),
            "cpu_seconds": sum(step.cost for step in later),
            "cpu_seconds_refits": sum(step.cost for step in later if step.refitted),
        },
        "hours": counts.tolist(),
        "costs": [[(step.since - start) / HOUR, step.cost] for step in later],
    }


def _steps(log: Log, start: float, way: Way, first: Step) -> Iterator[Step]:
    """The bundles of one way, made when they are asked for, after the first."""
    active, end = first, float(log.frame["timestamp"][-1])
    for moment, full in _moments(way, start, end):
        known = _before(log, moment)
        if float(known.frame["timestamp"][-1]) <= active.bundle.cutoff:
            continue  # nothing happened
        if full:
            active = _step(lambda known=known: train(known), moment)
        else:
            bundle = active.bundle
            active = _step(lambda known=known, bundle=bundle: refit(bundle, known), moment, True)
        yield active


def _moments(way: Way, start: float, end: float) -> list[tuple[float, bool]]:
    """When a bundle is made, and whether by a full training."""
    found = {}
    for period, full in ((way.refit, False), (way.retrain, True)):
        if period:
            count = int((end - start) / period)
            found |= {start + k * period: full for k in range(1, count + 1)}
    return sorted(found.items())


def _step(make: Callable[[], Bundle], moment: float, refitted: bool = False) -> Step:
    before = time.process_time()
    bundle = make()
    cost = time.process_time() - before
    return Step(moment + cost, bundle, cost, refitted)


def _before(log: Log, moment: float) -> Log:
    return dataclasses.replace(log, frame=log.frame.filter(pl.col("timestamp") < moment))


def _table(found: dict[str, Any]) -> Table:
    names = ("", "HR@20", "of new items", "trainings", "refits", "CPU s", "a refit, CPU s")
    table = Table(*names, box=SIMPLE, title_justify="left")
    for name, way in found.items():
        one = way["summary"]
        each = one["cpu_seconds_refits"] / one["refits"] if one["refits"] else None
        table.add_row(
            name,
            f"{one['hr@20']:.4f}",
            "-" if one["hr@20_new"] is None else f"{one['hr@20_new']:.4f}",
            str(one["trainings"]),
            str(one["refits"]),
            f"{one['cpu_seconds']:,.0f}",
            "" if each is None else f"{each:.2f}",
        )
    return table


def _draw(found: dict[str, Any], path: Path) -> None:
    """HR@20 over time, of all targets and of new items, with the cost beside it."""
    figure = Figure(figsize=(11, 7.5), layout="constrained")
    grid = figure.add_gridspec(2, 2, width_ratios=(3.2, 1))
    colours = {name: f"C{k}" for k, name in enumerate(WAYS)}
    for row, (title, column) in enumerate(
        (("HR@20 of the next click", 0), ("HR@20 where it is on an item new since the start", 2))
    ):
        axes = figure.add_subplot(grid[row, 0])
        for name, way in found.items():
            _line(axes, np.array(way["hours"])[:, column : column + 2], colours[name], name)
        axes.set_title(title, loc="left", fontsize=11)
        axes.set_xlabel(f"days of replay; dots: an hour, lines: mean of {SMOOTH} hours")
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
    figure.axes[0].legend(loc="lower left", ncols=len(found), fontsize=9)
    axes = figure.add_subplot(grid[:, 1])
    costs = [way["summary"]["cpu_seconds"] for way in found.values()]
    bars = axes.barh(list(found), costs, color=[colours[name] for name in found])
    labels = [f"{cost:,.0f}" for cost in costs]
    axes.bar_label(bars, labels, padding=3)
    axes.invert_yaxis()
    axes.set_xlim(right=max(1.0, *costs) * 1.35)
    axes.set_title("CPU seconds of all bundles", loc="left", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)


def _line(axes: Axes, counts: np.ndarray, colour: str, name: str) -> None:
    """counts: int [hours, 2], requests and hits."""
    days = (np.arange(len(counts)) + 0.5) / 24
    some = counts[:, 0] > 0
    axes.plot(days[some], counts[some, 1] / counts[some, 0], ".", color=colour, ms=3, alpha=0.35)
    window = np.ones(SMOOTH)
    asked, hits = (np.convolve(column, window, "same") for column in counts.T)
    mean = np.where(asked >= FEWEST, hits / np.maximum(asked, 1), np.nan)
    axes.plot(days, mean, color=colour, lw=1.8, label=name)


if __name__ == "__main__":
    sys.exit(main())
