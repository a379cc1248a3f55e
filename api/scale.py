"""`recsys benchmark scale`: what grows with the catalogue, the session, the list and the filter.

The active bundle is grown to each number of items (`api.grown`), published in a folder of its own
and loaded as servers load it. Lists are made in process by one thread, for sessions that walk along
what followed what; then the real server is started on it and visited at a steady rate.
"""

import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.box import SIMPLE
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from threadpoolctl import threadpool_limits

from api import load
from api.benchmark import measured, percentiles
from api.grown import grown
from api.live_check import serving
from api.plots import cost_by_scale
from recsys import index as faiss_index
from recsys.bundle import Bundle
from recsys.catalog import Catalog
from recsys.events import Event, InputError
from recsys.filters import Masks, filter_of
from recsys.items import Item
from recsys.models import session_knn
from recsys.recommend import Request, recommend
from recsys.registry import Registry
from recsys.retrieval import profile
from recsys.session import Session

LENGTHS = (1, 2, 5, 10, 20, 50, 100)  # events of a session
USUAL = 5  # events where something else varies
NUMBERS = (10, 20, 50, 100, 200, 500)  # items of a list
VALUES = (1, 10, 100, 1000)  # of one filter, each of a thousandth of the items
KINDS = 1000
WARM_UP = 300  # visits


def benchmark_scale(
    data_dir: Path,
    counts: Sequence[int],
    console: Console,
    plot: Path | None = None,
    *,
    dimensions: int = 0,
    lists: int = 1000,
    rate: float = 300.0,
    seconds: float = 10.0,
) -> dict[str, Any]:
    """Measure the active bundle of a data directory at several sizes; plain JSON values.

    counts: of items. dimensions: of the session embedding, 0 for the bundle's own. lists: made for
    each figure. rate, seconds: of the visits to the server. Raises InputError, RegistryError,
    CheckError.
    """
    if lists < 1 or not seconds > 0 or not rate > 0:
        raise InputError("--lists, --rate and --seconds: must be above 0")
    bundle = Registry(data_dir / "bundles").load()
    found: dict[str, Any] = {"bundle": bundle.version, "sizes": []}
    with Progress(console=console) as progress, threadpool_limits(1):
        task = progress.add_task("scale", total=len(counts) * 3)
        for count in counts:
            with tempfile.TemporaryDirectory(prefix="recsys-scale-") as name:
                progress.update(task, description=f"{count:,} items: grow")
                row = _published(bundle, count, dimensions, Path(name))
                progress.advance(task)
                progress.update(task, description=f"{count:,} items: lists")
                row.update(_in_process(Path(name), lists))
                progress.advance(task)
                progress.update(task, description=f"{count:,} items: server")
                row["served"] = _served(Path(name), rate, seconds)
                progress.advance(task)
                found["sizes"].append(row)
    if plot:
        cost_by_scale(found, plot)
    return found


def _published(bundle: Bundle, count: int, dimensions: int, folder: Path) -> dict[str, Any]:
    """Grow a bundle into a folder; what its indexes are."""
    start = time.perf_counter()
    large = grown(bundle, count, dimensions)
    config, seed = large.config, large.config.training.seed
    Registry(folder / "bundles").publish(large)
    return {
        "items": count,
        "sessions": large.facts.counts["sessions"],
        "dimensions": large.session_embedding.item_vectors.shape[1],
        "index": faiss_index.description(large.session_index),
        "recall": faiss_index.measured_recall(large.session_index, config.session_index, seed),
        "bytes": sum(p.stat().st_size for p in (folder / "bundles").rglob("*") if p.is_file()),
        "grow_s": time.perf_counter() - start,
    }


def _in_process(folder: Path, lists: int) -> dict[str, Any]:
    """What a list costs in one thread, by what is asked for; microseconds."""
    start = time.perf_counter()
    bundle = Registry(folder / "bundles").load()
    loaded = time.perf_counter() - start
    rng = np.random.default_rng(0)
    usual = list(sessions(bundle, USUAL, lists, rng))
    for session in usual[:50]:  # what is compiled and mapped once
        recommend(bundle, session, Request())
    stages: dict[str, list[float]] = {}
    for session in usual:
        for name, value in recommend(bundle, session, Request()).timings.items():
            stages.setdefault(name, []).append(value)
    return {
        "load_s": loaded,
        "stages_us": {name: percentiles(values) for name, values in stages.items()},
        "by_length": {
            str(length): _timed(bundle, sessions(bundle, length, lists, rng), Request())
            for length in LENGTHS
        },
        "by_n": {str(n): _timed(bundle, usual, Request(n=n)) for n in NUMBERS},
        "by_filter": _filtered(bundle, usual),
        "session_knn_us": _neighbours(bundle, usual),
    }


def sessions(
    bundle: Bundle, length: int, count: int, rng: np.random.Generator
) -> Iterator[Session]:
    """So many sessions of so many views, on walks along what followed what."""
    popular = np.cumsum(bundle.popularity.counts, dtype=np.float64)
    for number in range(count):
        rows: list[int] = []
        for _ in range(length):
            rows.append(load.step(bundle, popular, rows[-1] if rows else -1, rng))
        events = [
            Event("view", f"s{number}", item, timestamp=float(at))
            for at, item in enumerate(bundle.items.ids(rows))
        ]
        yield Session.from_events(events, config=bundle.config.session)


def _timed(bundle: Bundle, asking: Iterable[Session], wanted: Request) -> dict[str, float]:
    times = []
    for session in asking:
        start = time.perf_counter()
        recommend(bundle, session, wanted)
        times.append((time.perf_counter() - start) * 1e6)
    return percentiles(times)


def _filtered(bundle: Bundle, asking: list[Session]) -> dict[str, Any]:
    """By how many values a filter names: what its first use costs, and a list with it."""
    catalog = Catalog()
    for row, name in enumerate(bundle.items.ids(range(len(bundle.items)))):
        catalog.upsert(name, Item(properties={"kind": f"k{row % KINDS}"}))
    masks, found = Masks(catalog), {}
    masks.of(bundle.items, filter_of({"properties.kind": "none"}))  # the column is made once
    for count in VALUES:
        wanted = filter_of({"properties.kind": [f"k{k}" for k in range(count)]})
        start = time.perf_counter()
        mask = masks.of(bundle.items, wanted)
        first = (time.perf_counter() - start) * 1e6
        found[str(count)] = {
            "first_us": first,
            **_timed(bundle, asking, replace(Request(), allowed=mask)),
        }
    return found


def _neighbours(bundle: Bundle, asking: list[Session]) -> dict[str, float]:
    """What one query of the session-kNN costs."""
    times = []
    for session in asking:
        rows = profile(bundle, session).sequence
        start = time.perf_counter()
        session_knn.propose(
            bundle.session_knn,
            rows,
            bundle.config.session_knn,
            bundle.config.retrieval.session_knn or 0,
        )
        times.append((time.perf_counter() - start) * 1e6)
    return percentiles(times)


def _served(folder: Path, rate: float, seconds: float) -> dict[str, Any]:
    """The real server with two workers: its start, latency at a steady rate, and memory."""
    bundle = Registry(folder / "bundles").load()
    with _started(folder) as (url, start):
        measured(url, bundle, None, WARM_UP, 0)
        row = measured(url, bundle, rate, int(rate * seconds), 1)
    return {"start_s": start, **row}


@contextmanager
def _started(folder: Path) -> Iterator[tuple[str, float]]:
    """A server, and the seconds from its start to its address, which it tells with its first
    answer."""
    start = time.perf_counter()
    with serving(folder) as url:
        yield url, time.perf_counter() - start


def tables(found: dict[str, Any]) -> list[Table]:
    """What a person wants to see of it."""
    rows = found["sizes"]
    sizes = _table("items", [f"{row['items']:,}" for row in rows], "a bundle by its size")
    for name, cell in (
        ("sessions", lambda row: f"{row['sessions']:,}"),
        ("index", lambda row: row["index"]),
        ("its recall", lambda row: f"{row['recall']:.3f}"),
        ("GB of files", lambda row: f"{row['bytes'] / 1e9:.2f}"),
        ("s to load", lambda row: f"{row['load_s']:.2f}"),
        ("s from start to first answer", lambda row: f"{row['served']['start_s']:.2f}"),
        ("µs of a list, one thread", lambda row: _three(row["by_n"]["20"])),
        ("µs of session-kNN", lambda row: _three(row["session_knn_us"])),
        ("visits/s of the server", lambda row: f"{row['served']['rate']:g}"),
        ("ms of a list there", lambda row: _three(row["served"]["list_ms"], 1)),
        ("ms of an event there", lambda row: _three(row["served"]["event_ms"], 1)),
        ("GB of its workers", lambda row: f"{row['served']['memory_mb']['workers'] / 1e3:.2f}"),
    ):
        sizes.add_row(name, *map(cell, rows))
    found_tables = [sizes]
    for title, key, head in (
        ("by events of the session", "by_length", "events"),
        ("by items of the list", "by_n", "n"),
        ("by values of a filter", "by_filter", "values"),
    ):
        table = _table(head, list(rows[0][key]), f"µs of a list, p50 / p99, {title}")
        for row in rows:
            cells = (f"{cell['p50']:.0f} / {cell['p99']:.0f}" for cell in row[key].values())
            table.add_row(f"{row['items']:,} items", *cells)
        found_tables.append(table)
    return found_tables


def _table(head: str, steps: list[str], title: str) -> Table:
    return Table(head, *steps, box=SIMPLE, title=title, title_justify="left")


def _three(times: dict[str, float], digits: int = 0) -> str:
    return " / ".join(f"{times[name]:.{digits}f}" for name in ("p50", "p90", "p99"))
