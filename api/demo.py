"""`recsys demo`: real groceries, a trained bundle, a running server and a page to try it on."""

import hashlib
import importlib.metadata
import socket
import threading
import time
import urllib.request
import webbrowser
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import orjson
import polars as pl
from rich.console import Console
from rich.table import Table

from api import demo_data
from api.demo_page import Shop, serve_page
from api.serve import ServeError
from recsys.bundle import FORMAT, Bundle, BundleError
from recsys.cli import progress_bars
from recsys.config import Config, RankerConfig, SessionEmbeddingConfig, TrainingConfig
from recsys.logs import Log
from recsys.registry import Registry, RegistryError
from recsys.training import train

CONFIG = Config(
    # A first look is not to take many minutes: one pass and fewer requests to learn from.
    session_embedding=SessionEmbeddingConfig(epochs=1),
    ranker=RankerConfig(requests=6_000),
    # As many threads as there are cores; the bundle is the same with any number.
    training=TrainingConfig(threads=0),
)
TRAINED = "demo.json"  # which data and configuration the demo's bundle comes from

# Standard output is for the address and, with --check, for one line of JSON.
console = Console(stderr=True)


@dataclass(frozen=True)
class Prepared:
    """What the demo stands on. seconds: that training and publishing took, 0 when skipped."""

    lines: pl.DataFrame
    log: Log
    bundle: Bundle
    seconds: float


def run_demo(data_dir: Path, port: int, check: bool, as_json: bool, open_browser: bool) -> int:
    """Train on the demo's data, serve it with a page, and prove or show it; the exit status.

    check: prove it through HTTP and end, on a free port. Raises DemoDataError, RegistryError,
    ServeError, EmbeddedError.
    """
    if not check:
        _check_port(port)  # before a minute of training rather than after it
    prepared = prepare(data_dir, always=check)
    if check:
        from api.demo_check import run_check  # with the evaluation, which the page does without

        return run_check(data_dir, prepared, console)
    if as_json:
        print(orjson.dumps(summary(prepared)).decode(), flush=True)
    if open_browser:
        threading.Thread(target=_open, args=(f"http://127.0.0.1:{port}",), daemon=True).start()
    console.print(f"[bold]The page: http://127.0.0.1:{port}/demo[/]  (Ctrl-C ends it)")
    return serve_page(data_dir, port)


def prepare(data_dir: Path, always: bool) -> Prepared:
    """Load the data, train, publish, and write what the page looks up.

    always: train even where the same data and configuration were trained before.
    """
    lines = demo_data.transactions()
    log = demo_data.load(lines)
    products = demo_data.products(lines)
    Shop.of(products, demo_data.people(lines, products)).save(data_dir)
    start = perf_counter()
    seconds = 0.0
    if always or (bundle := _trained(data_dir)) is None:
        with progress_bars() as bar:
            bundle = train(log, CONFIG, bar)
        Registry(data_dir / "bundles").publish(bundle)
        made = {"fingerprint": _fingerprint(), "bundle": bundle.version}
        (data_dir / TRAINED).write_bytes(orjson.dumps(made))
        seconds = round(perf_counter() - start, 1)
    prepared = Prepared(lines, log, bundle, seconds)
    _show(prepared)
    return prepared


def summary(prepared: Prepared) -> dict[str, Any]:
    """The facts of what was loaded and trained, as plain JSON values."""
    counts = prepared.bundle.facts.counts
    return {
        "events": prepared.log.read,
        "kept": prepared.log.kept,
        "rejected": prepared.log.rejected,
        "users": counts["users"],
        "items": counts["items"],
        "sessions": counts["sessions"],
        "bundle": prepared.bundle.version,
        "train_seconds": prepared.seconds,
    }


def _trained(data_dir: Path) -> Bundle | None:
    """The bundle of an earlier run, if it is of the same data and configuration."""
    registry = Registry(data_dir / "bundles")
    try:
        made = orjson.loads((data_dir / TRAINED).read_bytes())
        if made["fingerprint"] != _fingerprint():
            return None
        bundle = registry.load(made["bundle"])
        registry.activate(bundle.version)
        return bundle
    except (OSError, orjson.JSONDecodeError, KeyError, RegistryError, BundleError):
        return None


def _fingerprint() -> str:
    data = (demo_data.folder() / "transactions.parquet").read_bytes()
    made_by = [FORMAT, importlib.metadata.version("recsys-live"), asdict(CONFIG)]
    return hashlib.sha256(data + orjson.dumps(made_by)).hexdigest()


def _show(prepared: Prepared) -> None:
    facts = summary(prepared)
    table = Table(title="Complete Journey: a year of groceries", show_header=False)
    table.title_justify = "left"
    table.add_row("purchase lines", f"{facts['events']:,} read, {facts['kept']:,} kept")
    for name in ("users", "items", "sessions"):
        table.add_row(
            {"users": "households", "sessions": "baskets"}.get(name, name), f"{facts[name]:,}"
        )
    bought = "left out" if prepared.bundle.facts.exclude_bought else "may come again"
    rate = prepared.bundle.facts.metrics["repeat_purchase_rate"]
    table.add_row("bought before", f"{rate:.0%} of purchases: {bought}")
    table.add_row("bundle", facts["bundle"])
    took = f"{facts['train_seconds']} s" if facts["train_seconds"] else "had been trained before"
    table.add_row("training", took)
    console.print(table)


def _check_port(port: int) -> None:
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except (OSError, OverflowError) as error:
        raise ServeError(
            f"port {port} cannot be used ({error}): stop what listens there, or choose another "
            "one with --port"
        ) from error


def _open(address: str) -> None:
    """Open a browser once the page answers."""
    for _ in range(600):
        try:
            with urllib.request.urlopen(f"{address}/health/ready", timeout=1):
                break
        except OSError:
            time.sleep(0.1)
    else:
        return
    webbrowser.open(f"{address}/demo")
