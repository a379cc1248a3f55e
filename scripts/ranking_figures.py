"""The figures of scripts/bench_ranking.py: what they must be, and how they are shown."""

import itertools
import statistics
import tomllib
from collections import defaultdict
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.table import Table

PUBLISHED = Path(__file__).with_name("published.toml")
MARKS = ("<!-- bench-ranking -->", "<!-- /bench-ranking -->")
DELAYS = ("0s", "1m", "5m", "30m", "1h", "6h", "1d")
FULL = ("systems", "full")


@dataclass(frozen=True)
class Target:
    """One figure: where it stands in which measurement, and what it must be.

    kind: the measurement's name after the data set. path: keys into its result. scale: of the
    figure as shown. digits: after the point. below: the figure must not exceed what it must be.
    """

    dataset: str
    label: str
    kind: str
    path: tuple[str, ...]
    must: float | None = None
    aim: float | None = None
    scale: float = 1.0
    digits: int = 2
    below: bool = False

    def text(self, value: float | None) -> str:
        return "–" if value is None else f"{value:.{self.digits}f}"

    def met(self, value: float) -> str:
        """Which of the two goals a value reaches."""
        for goal, word in ((self.aim, "aim"), (self.must, "must")):
            if goal is not None and (value <= goal if self.below else value >= goal):
                return word
        return "" if self.must is None else "missed"


Values = Callable[[Target], list[float]]  # a target's figures, one a run, scaled as shown


def clicks(dataset: str, hits: tuple[float, float], ranks: tuple[float, float]) -> list[Target]:
    """P@20 and MRR@20 of next clicks, percent; each with what it must be and the aim."""
    return [
        Target(dataset, "P@20", "full", (*FULL, "hr@20"), *hits, scale=100),
        Target(dataset, "MRR@20", "full", (*FULL, "mrr@20"), *ranks, scale=100),
    ]


def fresh(delay: str, must: float | None = None, aim: float | None = None) -> Target:
    """HR@20 of an engine that sees events after a delay only."""
    path = ("freshness", delay, "figures", "hr@20")
    label = f"HR@20, next new item, seen after {delay}"
    return Target("rsc15-100k", label, "full", path, must, aim, digits=3)


def lift(label: str, end: str, must: float, aim: float | None = None) -> Target:
    """What full adds to batch, percent: the value or one end of its interval."""
    path = ("lift", "ndcg@20", end)
    return Target("online-retail", label, "full", path, must, aim, scale=100, digits=1)


def speed(percentile: str, must: float, aim: float) -> Target:
    """Microseconds of recommend() in process, one thread."""
    label = f"recommend() {percentile}, µs"
    return Target("diginetica", label, "latency", (percentile,), must, aim, digits=0, below=True)


TARGETS = [
    *clicks("diginetica", (57.3, 58.5), (20.8, 21.5)),
    *clicks("rsc15-64", (72.7, 73.5), (33.8, 34.5)),
    *clicks("retailrocket", (61.8, 63.5), (33.8, 35.0)),
    Target("gowalla", "Recall@20", "full", (*FULL, "recall@20"), 0.189, 0.195, digits=4),
    Target("gowalla", "NDCG@20", "full", (*FULL, "ndcg@20"), 0.157, 0.161, digits=4),
    lift("NDCG@20, full over batch, %", "value", 30, 35),
    lift("lower end of its 95 % interval, %", "low", 25),
    fresh(DELAYS[0], 0.58, 0.60),
    *map(fresh, DELAYS[1:]),
    *(speed("p50", 500, 250), speed("p90", 700, 350), speed("p99", 1000, 600)),
    Target(
        "diginetica", "recsys train, s", "train", ("seconds", "total"), 360, 180, 1, 0, below=True
    ),
]


def result(record: Any, target: Target) -> float | None:
    """A target's figure in a measurement's result, as shown; None where it is not there."""
    for key in target.path:
        record = record.get(key) if isinstance(record, dict) else None
    return None if record is None else float(record) * target.scale


def table(values: Values, datasets: Collection[str], title: str) -> Table:
    """Must, aim, measured and the spread over seeds, for a terminal."""
    shown = Table(title=title, title_justify="left")
    shown.add_column("data set", no_wrap=True)
    shown.add_column("figure")
    for name in ("must", "aim", "measured", "std", "runs", ""):
        shown.add_column(name, justify="right")
    for target in TARGETS:
        if target.dataset in datasets:
            found = values(target)
            mean = statistics.fmean(found) if found else None
            shown.add_row(
                target.dataset,
                target.label,
                target.text(target.must),
                target.text(target.aim),
                target.text(mean),
                target.text(statistics.stdev(found)) if len(found) > 1 else "–",
                str(len(found)),
                "" if mean is None else target.met(mean),
            )
    return shown


def markdown(values: Values, foot: str) -> str:
    """Our figures beside the published ones and the baselines, for the README."""
    published, notes = _published()
    lines = [
        "| | recsys | goal | popular | ALS fold-in | VMIS-kNN | published |",
        "|---|---|---|---|---|---|---|",
    ]
    ranked = [target for target in TARGETS if target.path[:2] == FULL]
    for dataset, pair in itertools.groupby(ranked, lambda target: target.dataset):
        figures = list(pair)
        labels = " / ".join(figure.label for figure in figures)
        ours = " / ".join(_spread(values, figure) for figure in figures)
        goals = " / ".join(_goal(values, figure) for figure in figures)
        beside = [_baseline(values, figures, kind) for kind in ("popular", "als", "vmis")]
        others = ", ".join(published[dataset]) or "none that we could open"
        cells = [f"{dataset} {labels}", f"**{ours}**", goals, *beside, others]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", *notes, "", "| | measured | goal |", "|---|---|---|"]
    for target in TARGETS:
        if target.path[:2] != FULL:
            cells = [f"{target.dataset}: {target.label}", _spread(values, target)]
            lines.append(f"| {' | '.join([*cells, _goal(values, target)])} |")
    return "\n".join([*lines, "", foot])


def write_between(path: Path, text: str) -> None:
    """Replace what stands between the two marks of a file. Raises ValueError without them."""
    before, opened, rest = path.read_text().partition(MARKS[0])
    _, closed, after = rest.partition(MARKS[1])
    if not opened or not closed:
        raise ValueError(f"{path}: needs the lines {MARKS[0]} and {MARKS[1]}")
    path.write_text(f"{before}{MARKS[0]}\n{text}\n{MARKS[1]}{after}")


def _published() -> tuple[dict[str, list[str]], list[str]]:
    """Cited figures by data set, and what must be said of those measured otherwise."""
    cited: dict[str, list[str]] = defaultdict(list)
    notes: list[str] = []
    for figure in tomllib.loads(PUBLISHED.read_text())["figure"]:
        mark = ""
        if "differs" in figure:
            mark = f"<sup>{len(notes) + 1}</sup>"
            notes.append(f"{mark} {figure['system']}, {figure['source']}: {figure['differs']}.")
        link = f"[{figure['system']}]({figure['url']}){mark}"
        cited[figure["dataset"]].append(f"{link} {' / '.join(figure['values'])}")
    return cited, notes


def _spread(values: Values, target: Target) -> str:
    found = values(target)
    if not found:
        return "–"
    spread = f" ± {target.text(statistics.stdev(found))}" if len(found) > 1 else ""
    return target.text(statistics.fmean(found)) + spread


def _goal(values: Values, target: Target) -> str:
    """What a figure must be, and whether it is not."""
    if target.must is None:
        return ""
    found = values(target)
    missed = found and target.met(statistics.fmean(found)) == "missed"
    return target.text(target.must) + (", missed" if missed else "")


def _baseline(values: Values, figures: list[Target], kind: str) -> str:
    """The same figures of a way to rank that is not ours."""
    if kind == "popular":
        beside = [replace(t, path=("systems", "popular", t.path[-1])) for t in figures]
    else:
        beside = [replace(t, kind=kind, path=(t.path[-1],)) for t in figures]
    found = [values(target) for target in beside]
    if not all(found):
        return "–"
    return " / ".join(t.text(statistics.fmean(v)) for t, v in zip(beside, found, strict=True))
