"""Measure every figure of quality and speed that the README states, by the product's own commands.

    scripts/bench-ranking --data ../shared/data --out results.json --markdown README.md

Each finished measurement is kept in the results file at once, with the bundle, the hash of the
data and the command; a run that was interrupted goes on where it stopped. Data sets with a split
are trained on split 0 and measured on split 1; settings are the defaults for every data set, or,
with --tune, what `recsys tune` finds in the training part.
"""

import argparse
import hashlib
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import polars as pl
from ranking_figures import DELAYS, MARKS, Target, markdown, result, table, write_between
from ranking_yardsticks import MEASURES, Record
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from threadpoolctl import threadpool_limits

from recsys.config import config_from_dict
from recsys.evaluation.replay import samples
from recsys.evaluation.split import split
from recsys.logs import Log, load_log
from recsys.registry import Registry

ROOT = Path(__file__).resolve().parent.parent
QUIET = 1.5  # load average up to which latencies may be believed

console = Console(stderr=True)


class BenchError(Exception):
    """A measurement failed; the text says which and why."""


@dataclass(frozen=True)
class Dataset:
    """One file and how it is asked.

    columns, options: of `recsys evaluate`; columns of `recsys train` too. key: what a reduced run
    limits. split: the file has a column that tells training (0) from test (1). baselines: run the
    others' methods beside ours. speed: measure training and requests.
    """

    name: str
    file: str
    columns: str
    key: str
    options: tuple[str, ...] = ()
    split: bool = True
    baselines: bool = False
    speed: bool = False

    @property
    def beside(self) -> tuple[str, ...]:
        """What is measured with one trained bundle."""
        return self.speed * ("train", "latency") + self.baselines * ("als", "vmis")

    def told(self, *names: str) -> list[str]:
        """Those of the options that have one of the names, with their values."""
        pairs = zip(self.options[::2], self.options[1::2], strict=True)
        return [word for pair in pairs if pair[0] in names for word in pair]

    def value(self, name: str, default: str) -> str:
        """The value of one option."""
        return dict(zip(self.options[::2], self.options[1::2], strict=True)).get(name, default)

    def load(self, path: Path) -> Log:
        """A part of the data as the product reads it."""
        columns = dict(pair.split("=") for pair in self.columns.split(","))
        return load_log([path], columns=columns, default_type=self.value("--default-type", "view"))


CLICKS = "session_id=session,item_id=item"
DATASETS = (
    Dataset(
        "diginetica",
        "diginetica-sessions.parquet",
        CLICKS,
        "session",
        baselines=True,
        speed=True,
    ),
    Dataset("rsc15-64", "rsc15-64-sessions.parquet", CLICKS, "session", baselines=True),
    Dataset(
        "retailrocket",
        "retailrocket-sessions.parquet",
        CLICKS,
        "session",
        ("--min-prefix", "2"),
        baselines=True,
    ),
    Dataset(
        "gowalla",
        "gowalla-lightgcn.parquet",
        "user_id=user,session_id=user,item_id=item",
        "user",
        ("--protocol", "user", "--default-type", "purchase"),
    ),
    Dataset(
        "online-retail",
        "online-retail.parquet",
        "user_id=CustomerID,session_id=InvoiceNo,item_id=StockCode,timestamp=InvoiceDate,"
        "value=Quantity",
        "InvoiceNo",
        ("--default-type", "purchase", "--protocol", "rest-of-session", "--holdout", "0.1"),
        split=False,
    ),
    Dataset(
        "rsc15-100k",
        "rsc15-100k-clicks.parquet",
        CLICKS,
        "session",
        ("--holdout", "1d", "--placement", "discover", "--freshness", ",".join(DELAYS)),
        split=False,
    ),
)


@dataclass
class Results:
    """Measurements in a JSON file, written whole after each."""

    path: Path
    records: dict[str, Record]

    @classmethod
    def at(cls, path: Path, afresh: bool) -> "Results":
        if afresh or not path.exists():
            return cls(path, {})
        try:
            return cls(path, json.loads(path.read_text())["records"])
        except (ValueError, KeyError, TypeError) as error:
            raise BenchError(
                f"{path}: not results of this script: {error!r}; use --fresh"
            ) from error

    def add(self, name: str, record: Record) -> None:
        self.records[name] = record
        text = json.dumps({"records": self.records}, indent=1)
        part = self.path.with_name(f".{self.path.name}.tmp")
        part.write_text(text + "\n")
        os.replace(part, self.path)


@dataclass
class Bench:
    """One run: what was asked for, where it works, and what there is already."""

    data: Path
    work: Path
    results: Results
    seeds: list[int]
    sessions: int | None  # of training, in a reduced run; a tenth of that in test
    minutes: float | None  # of tuning

    def name(self, dataset: Dataset, kind: str) -> str:
        """The name of a measurement; what was asked differently does not bear the same."""
        reduced = "" if self.sessions is None else f", {self.sessions} sessions"
        told = "" if self.minutes is None else f", tuned {self.minutes:g} min"
        return f"{dataset.name} {kind}{reduced}{told}"

    def missing(self, dataset: Dataset, kind: str) -> bool:
        """Whether a measurement of this very data is still to be made."""
        record = self.results.records.get(self.name(dataset, kind))
        return record is None or record["data"] != digest(self.data / dataset.file)

    def keep(self, dataset: Dataset, kind: str, record: Record) -> None:
        common = {
            "data": digest(self.data / dataset.file),
            "machine": machine(),
            "revision": revision(),
        }
        self.results.add(self.name(dataset, kind), {**common, **record})

    def steps(self, datasets: list[Dataset]) -> Iterator[tuple[str, Callable[[], None]]]:
        """What is still to be done, with what to show for it; it may stop after any of them."""
        for dataset in datasets:
            if self.minutes is not None and self.missing(dataset, "tune"):
                yield f"{dataset.name}: tune", partial(self.tune, dataset)
            for seed in self.seeds:
                if self.missing(dataset, f"full {seed}"):
                    yield f"{dataset.name}: evaluate {seed}", partial(self.evaluate, dataset, seed)
            if beside := [kind for kind in dataset.beside if self.missing(dataset, kind)]:
                yield f"{dataset.name}: {', '.join(beside)}", partial(self.beside, dataset, beside)

    def tune(self, dataset: Dataset) -> None:
        """`recsys tune` on the training part; the settings are kept in the results."""
        out = self.work / f"{dataset.name}.toml"
        log = self._parts(dataset)[0] if dataset.split else self._before_holdout(dataset)
        place = self.work / f"{dataset.name}-tuning"
        answer, seconds = run(
            *("tune", str(log), "--columns", dataset.columns),
            *dataset.told("--default-type", "--protocol", "--min-prefix", "--placement"),
            *("--minutes", f"{self.minutes:g}", "--out", str(out), "--data-dir", str(place)),
        )
        config = out.read_text() if out.exists() else ""  # nothing better than the defaults
        self.keep(dataset, "tune", {"answer": answer, "seconds": seconds, "config": config})

    def evaluate(self, dataset: Dataset, seed: int) -> None:
        """`recsys evaluate`: what the API would answer, beside popular and batch."""
        train, test = map(str, self._parts(dataset))
        asked = [
            *(("--train", train, "--test", test) if dataset.split else (train,)),
            *("--columns", dataset.columns, *dataset.options),
            *("--config", self._config(dataset, seed)),
        ]
        answer, seconds = run("evaluate", *asked)
        kept = ("bundle", "protocol", "samples", "systems", "lift", "latency_us")
        report = {name: answer[name] for name in kept}
        curve = {delay["delay"]: delay for delay in answer.get("freshness", [])}
        # The parts lie in a folder that will be gone; their names say what they were.
        command = " ".join(["recsys evaluate", *map(plain, asked)])
        more = {"freshness": curve, "seconds": seconds, "command": command}
        self.keep(dataset, f"full {seed}", {**report, **more})

    def beside(self, dataset: Dataset, kinds: list[str]) -> None:
        """`recsys train` once, and what is measured with its bundle in this process."""
        train, test = self._parts(dataset)
        place = self.work / f"{dataset.name}-data"
        asked = [str(train), "--columns", dataset.columns, *dataset.told("--default-type")]
        asked += ["--config", self._config(dataset, self.seeds[0])]
        answer, seconds = run("train", *asked, "--data-dir", str(place))
        if "train" in kinds:
            report = {name: answer[name] for name in ("bundle", "seconds", "metrics")}
            command = " ".join(["recsys train", *map(plain, asked)])
            self.keep(dataset, "train", {**report, "wall": seconds, "command": command})
        bundle = Registry(place / "bundles").load()
        log = dataset.load(train)
        min_prefix = int(dataset.value("--min-prefix", "1"))
        questions = list(samples(dataset.load(test).frame, bundle.config, min_prefix))
        # As a server's worker has it: one thread.
        with threadpool_limits(1):
            for kind in kinds:
                if kind in MEASURES:
                    start = time.perf_counter()
                    found = MEASURES[kind](bundle, log, questions)
                    took = round(time.perf_counter() - start, 1)
                    self.keep(dataset, kind, {"bundle": bundle.version, **found, "seconds": took})
                    if found.get("load", 0) > QUIET:
                        console.print(
                            f"[yellow]load {found['load']:.1f}: the machine was busy, so the "
                            "microseconds are not recommend()'s own; measure again when it rests[/]"
                        )

    def _config(self, dataset: Dataset, seed: int) -> str:
        """A configuration file with a seed, on top of what tuning found."""
        path = self.work / f"{dataset.name}-{seed}.toml"
        found = self.results.records.get(self.name(dataset, "tune"), {}).get("config", "")
        path.write_text(seeded(found, seed))
        return str(path)

    def _parts(self, dataset: Dataset) -> tuple[Path, Path]:
        """Training and test as files; one file, twice, where `recsys evaluate` cuts the log."""
        source = self.data / dataset.file
        if not dataset.split and self.sessions is None:
            return source, source
        paths = [self.work / f"{dataset.name}-{part}.parquet" for part in ("train", "test")]
        if all(path.exists() for path in paths):
            return paths[0], paths[1]
        frame = pl.read_parquet(source)
        if not dataset.split:
            # Of all times, so that a period can be cut off the end.
            keys = frame[dataset.key].unique(maintain_order=True)
            keys = keys.gather_every(max(1, len(keys) // (self.sessions or len(keys))))
            frame.filter(pl.col(dataset.key).is_in(keys.implode())).write_parquet(paths[0])
            return paths[0], paths[0]
        train, test = (frame.filter(pl.col("split") == k).drop("split") for k in (0, 1))
        if self.sessions is not None:
            if dataset.key == "user":
                test = test.join(train.select(dataset.key), on=dataset.key, how="semi")
                test = _last(test, dataset.key, self.sessions)
                train = train.join(test.select(dataset.key), on=dataset.key, how="semi")
            else:
                train = _last(train, dataset.key, self.sessions)
                wanted = test[dataset.key].unique(maintain_order=True).head(self.sessions // 10)
                test = test.filter(pl.col(dataset.key).is_in(wanted.implode()))
        for part, path in zip((train, test), paths, strict=True):
            part.write_parquet(path)
        return paths[0], paths[1]

    def _before_holdout(self, dataset: Dataset) -> Path:
        """What `recsys evaluate` trains on when it cuts the log itself."""
        before = split(dataset.load(self._parts(dataset)[0]), dataset.value("--holdout", "0.1"))
        names = dict(pair.split("=") for pair in dataset.columns.split(","))
        path = self.work / f"{dataset.name}-before.parquet"
        before.train.frame.rename(names).write_parquet(path)
        return path

    def values(self, target: Target) -> list[float]:
        """The figures of a target, one a seed where it was measured with several."""
        dataset = next(d for d in DATASETS if d.name == target.dataset)
        kinds = [f"full {s}" for s in self.seeds] if target.kind == "full" else [target.kind]
        records = [self.results.records.get(self.name(dataset, kind)) for kind in kinds]
        found = [result(record, target) for record in records]
        return [value for value in found if value is not None]

    def foot(self) -> str:
        """What measured: machines, runs, revisions."""
        names = {
            self.name(dataset, kind)
            for dataset in DATASETS
            for kind in (*(f"full {seed}" for seed in self.seeds), *dataset.beside)
        }
        records = [r for name, r in self.results.records.items() if name in names]
        machines = ", ".join(sorted({record["machine"] for record in records}))
        revisions = ", ".join(sorted({str(record["revision"]) for record in records}))
        count = len(self.seeds)
        of = "mean ± standard deviation of"
        runs = "one seed" if count == 1 else f"{of} up to {count} seeds, without ± of one"
        return f"{machines or 'Nothing measured yet'}; {runs}; revision {revisions or '–'}."


def run(command: str, *arguments: str) -> tuple[Record, float]:
    """A command of the product with --json: its answer and the seconds it took.

    It runs where no recsys.toml lies by chance. Raises BenchError with the end of what it said.
    """
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "recsys.cli", command, *arguments, "--json"],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT / "scripts",
        env={**os.environ, "PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"},
    )
    if done.returncode:
        said = " ".join(done.stderr.split())[-500:]
        raise BenchError(f"recsys {command} {' '.join(map(plain, arguments))}: {said}")
    answer: Record = json.loads(done.stdout.splitlines()[-1])
    return answer, round(time.perf_counter() - start, 1)


def seeded(config: str, seed: int) -> str:
    """A configuration's text with another seed."""
    told = tomllib.loads(config)
    told.setdefault("training", {})["seed"] = seed
    config_from_dict(told)  # refuses what recsys would refuse, before hours of work
    if "training" not in tomllib.loads(config):
        return f"{config}\n[training]\nseed = {seed}\n"
    lines = [line for line in config.splitlines() if not line.strip().startswith("seed ")]
    lines.insert(lines.index("[training]") + 1, f"seed = {seed}")
    return "\n".join(lines) + "\n"


def plain(argument: str) -> str:
    """An argument as it may stand in a report: files without their folders."""
    return Path(argument).name if os.sep in argument else argument


def _last(frame: pl.DataFrame, key: str, count: int) -> pl.DataFrame:
    """The rows of the last ``count`` keys, by first appearance."""
    wanted = frame[key].unique(maintain_order=True).tail(count)
    return frame.filter(pl.col(key).is_in(wanted.implode()))


_DIGESTS: dict[Path, str] = {}


def digest(path: Path) -> str:
    """SHA-256 of a file, read once."""
    if path not in _DIGESTS:
        with path.open("rb") as file:
            _DIGESTS[path] = hashlib.file_digest(file, "sha256").hexdigest()
    return _DIGESTS[path]


def revision() -> str | None:
    """The commit of this checkout, "-dirty" where files differ; None without git."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return told.stdout.strip() or None


def machine() -> str:
    """The processor, its cores and the Python that measured."""
    cpu = Path("/proc/cpuinfo")
    lines = cpu.read_text().splitlines() if cpu.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.processor() or platform.machine()
    return f"{name}, {os.cpu_count()} cores, Python {platform.python_version()}"


def measure(bench: Bench, datasets: list[Dataset]) -> int:
    """Do what is still to be done, one after another; returns how many measurements failed."""
    columns = (TextColumn("{task.description:<34}"), BarColumn(), MofNCompleteColumn())
    failed = 0
    with Progress(*columns, TimeElapsedColumn(), console=console) as progress:
        steps = list(bench.steps(datasets))
        task = progress.add_task("", total=len(steps))
        for text, step in steps:
            progress.update(task, description=text)
            try:
                step()
            except BenchError as error:
                failed += 1
                console.print("[red]failed:[/]", escape(str(error)), highlight=False)
            progress.advance(task)
    return failed


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/bench-ranking",
        description=(__doc__ or "").split("\n")[0],
        epilog="example: scripts/bench-ranking --data ../shared/data --only diginetica --seeds 1",
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    names = [dataset.name for dataset in DATASETS]
    parser.add_argument("--only", help=f"some of {','.join(names)}")
    parser.add_argument("--seeds", type=int, default=3, help="runs, seeds 42, 43, … (default: 3)")
    parser.add_argument("--out", type=Path, default=Path("bench-ranking.json"), help="the results")
    parser.add_argument("--fresh", action="store_true", help="measure all again")
    parser.add_argument("--tune", type=float, metavar="MINUTES", help="recsys tune before")
    parser.add_argument("--sessions", type=int, help="a reduced run: train on that many sessions")
    parser.add_argument(
        "--markdown",
        type=Path,
        metavar="FILE",
        help=f"write tables into FILE between {MARKS[0]} marks",
    )
    told = parser.parse_args(argv)
    told.data = told.data.resolve()
    wanted = told.only.split(",") if told.only else names
    if unknown := set(wanted) - set(names):
        parser.error(f"--only: unknown {', '.join(sorted(unknown))}; known: {', '.join(names)}")
    if told.seeds < 1 or (told.sessions is not None and told.sessions < 10):
        parser.error("--seeds must be at least 1, --sessions at least 10")
    told.datasets = [dataset for dataset in DATASETS if dataset.name in wanted]
    for dataset in told.datasets:
        if not (told.data / dataset.file).is_file():
            parser.error(f"--data: {told.data / dataset.file} is missing; leave it out with --only")
    return told


def main(argv: list[str] | None = None) -> int:
    """Returns the exit status: 0 done, 1 interrupted or failed."""
    told = arguments(argv)
    try:
        results = Results.at(told.out, told.fresh)
        with tempfile.TemporaryDirectory(prefix="bench-ranking-") as work:
            seeds = list(range(42, 42 + told.seeds))
            bench = Bench(told.data, Path(work), results, seeds, told.sessions, told.tune)
            failed = measure(bench, told.datasets)
        names = [dataset.name for dataset in told.datasets]
        Console().print(table(bench.values, names, machine()))
        if told.markdown:
            write_between(told.markdown, markdown(bench.values, bench.foot()))
    except KeyboardInterrupt:
        console.print(f"interrupted; what is finished is in {told.out}, the same command goes on")
        return 1
    except (BenchError, OSError, ValueError) as error:
        console.print("[red]failed:[/]", escape(str(error)), highlight=False)
        return 1
    return 1 if failed else 0


if __name__ == "__main__":
    for stop in (signal.SIGINT, signal.SIGTERM):  # both leave nothing behind
        signal.signal(stop, signal.default_int_handler)
    sys.exit(main())
