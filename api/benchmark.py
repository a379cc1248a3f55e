"""`recsys benchmark serving`: the real server under a realistic load, and how far from its limit.

Visits (`api.load`) at steady rates, then as many as there can be, then lists alone. After that
lists alone, and the same rates, of the limit: the same application, server, Redis and read, with a
canned body of the same length in the place of the work. All in one run, one after the other: only
their ratios can be compared with those of another time or machine.
"""

import contextlib
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import orjson
import uvloop
from fastapi import FastAPI, Request, Response
from rich.box import SIMPLE
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from starlette.routing import Route

from api import load
from api.app import create_app
from api.body import read_object
from api.engine import engine_of
from api.live_check import serving
from api.plots import latency_by_load
from api.serve import APP
from recsys import shelf as shelves
from recsys.bundle import Bundle, sealed
from recsys.embedded import processor_seconds
from recsys.events import InputError
from recsys.mirror import FOLLOWED, told
from recsys.registry import Registry

CANNED = "api.benchmark:create_canned_app"
CANNED_BYTES = "RECSYS_CANNED_BYTES"
# Of processes by their names.
ROLES = {"worker": "workers", "reader": "reader", "redis": "redis", "valkey": "redis"}
WARM_UP = 300  # visits before anything is measured
OVERLOAD = 3  # times as many visits as there can be
CROWD = 1000  # visits under way then
AFTER = 5  # seconds that are looked at once it is over
AT_ONCE = 16  # visits under way where as many as possible are made
PERCENTILES = (50.0, 90.0, 99.0)


def benchmark_serving(
    data_dir: Path,
    rates: Sequence[float],
    seconds: float,
    console: Console,
    plot: Path | None = None,
    *,
    overload: float = 0.0,
    seed: int = 0,
    warm_up: int = WARM_UP,
) -> dict[str, Any]:
    """Measure the active bundle of a data directory; plain JSON values.

    rates: visits a second. seconds: of each measurement. overload: seconds of three times as many
    visits as there can be, 0 for none. warm_up: visits before. plot: a picture of latency against
    load, .png or .svg. Raises InputError, RegistryError, CheckError.
    """
    if not seconds > 0 or overload < 0 or not all(rate > 0 for rate in rates):
        raise InputError("--seconds and --rates: must be above 0, --overload not below")
    bundle = Registry(data_dir / "bundles").load()
    with Progress(console=console) as progress:
        task = progress.add_task("load", total=2 * len(rates) + 3 + bool(overload))

        def at_rates(url: str, of: str = "") -> Iterator[dict[str, Any]]:
            for number, rate in enumerate(rates, seed + 1):
                progress.update(task, description=f"{of}{rate:g} visits/s")
                yield measured(url, bundle, rate, int(rate * seconds), number)
                progress.advance(task)

        found: dict[str, Any] = {"bundle": bundle.version, "counts": bundle.facts.counts}
        with _served(bundle) as url:
            measured(url, bundle, None, warm_up, seed)
            found["rates"] = list(at_rates(url))
            progress.update(task, description="saturated")
            found["saturated"] = _saturated(url, bundle, seconds, warm_up, seed)
            progress.advance(task)
            made = found["saturated"]["visits"]
            found["lists"] = _saturated(url, bundle, seconds, warm_up, seed, lists_of=made)
            progress.advance(task)
        if overload:
            most = found["saturated"]["per_second"]
            # As in production: a list may wait for others as long as is usual, and no longer.
            with _served(bundle, more={"RECSYS_MAX_WAIT": ""}) as url:
                progress.update(task, description="too much")
                measured(url, bundle, None, warm_up, seed)
                found["overload"] = _overloaded(url, bundle, most, overload, seed)
                progress.advance(task)
        size = found["lists"]["bytes"]
        with _served(bundle, CANNED, {CANNED_BYTES: str(size)}) as url:
            progress.update(task, description="the limit")
            # The same sessions, so that what is read of them is as long.
            measured(url, bundle, None, warm_up, seed + 100)
            measured(url, bundle, None, made, seed + 200)
            found["limit"] = _saturated(url, bundle, seconds, warm_up, seed, lists_of=made)
            progress.advance(task)
            found["limit_rates"] = list(at_rates(url, "the limit, "))
    found["ratio_to_limit"] = found["lists"]["per_second"] / found["limit"]["per_second"]
    if plot:
        latency_by_load(found, plot)
    return found


@contextlib.contextmanager
def _served(bundle: Bundle, app: str = APP, more: Mapping[str, str] | None = None) -> Iterator[str]:
    """A server on a bundle, in a folder of its own: what the load does is nobody's data."""
    with tempfile.TemporaryDirectory(prefix="recsys-benchmark-") as name:
        # What an earlier version trained is told of with today's settings, under another name.
        Registry(Path(name) / "bundles").publish(sealed(bundle))
        with serving(Path(name), app, more) as url:
            yield url


def create_canned_app() -> FastAPI:
    """The application without the work that a list is: what is read of a visitor is thrown away."""
    app = create_app()
    body = b" " * int(os.environ[CANNED_BYTES])

    async def canned(request: Request) -> Response:
        engine = engine_of(request)
        wanted = await read_object(request, engine.settings.max_body)
        mirror = told(engine.active_bundle().config, engine.mirror)
        place = mirror.place if mirror else ""
        at = engine.shelf.place if engine.shelf else ""
        session = wanted["session_id"]
        live = await engine.store.read(session, None, place, FOLLOWED, at, shelves.FOLLOWED)
        if mirror and live.changes:  # else each would be read again by the next
            mirror.apply(live.changes)
        return Response(body, 200, None, "application/json")

    app.direct.add(Route("/v1/recommendations", canned, methods=["POST"]))
    return app


def _saturated(
    url: str,
    bundle: Bundle,
    seconds: float,
    warm_up: int,
    seed: int,
    *,
    lists_of: int = 0,
) -> dict[str, Any]:
    """As many visits as there can be in so many seconds, or lists alone, of so many visits that
    were made so before."""
    probe = measured(url, bundle, None, warm_up, seed + 100, lists_of=lists_of and warm_up)
    count = max(warm_up, int(probe["per_second"] * seconds))
    return measured(url, bundle, None, count, seed + 200, lists_of=lists_of)


def _overloaded(url: str, bundle: Bundle, most: float, seconds: float, seed: int) -> dict[str, Any]:
    """What becomes of OVERLOAD times as many visits as there can be, and then of half as many."""
    rate, calm = OVERLOAD * most, most / 2
    during = measured(url, bundle, rate, int(rate * seconds), seed + 300, at_once=CROWD)
    after = measured(url, bundle, calm, int(calm * AFTER), seed + 400, at_once=CROWD)
    return {"during": during, "after": after}


def measured(
    url: str,
    bundle: Bundle,
    rate: float | None,
    count: int,
    seed: int,
    *,
    lists_of: int = 0,
    at_once: int = load.CONNECTIONS,
) -> dict[str, Any]:
    """What became of so many visits. rate: a second; None: as many as possible. lists_of: so many
    visits that were made before; their lists alone, over and over, so that each is of a session
    that there is. at_once: visits under way, those beyond wait for a connection."""
    host = urlsplit(url).netloc
    visits = list(load.visits_of(bundle, lists_of or count, host, seed=seed))
    if lists_of:
        visits = [replace(visit, event=b"") for visit in islice(cycle(visits), count)]
    begin = load.due(count, rate, seed) if rate else None
    before = cpu_seconds()
    outcome = uvloop.run(load.run(url, visits, begin, at_once if rate else AT_ONCE))
    used = {name: used - before.get(name, 0.0) for name, used in cpu_seconds().items()}
    told = [orjson.loads(answer)["timings"] for answer in outcome.answers]
    stages = {name: [one[name] for one in told] for name in (told[0] if told else ())}
    return {
        "rate": rate,
        "visits": count,
        "per_second": count / outcome.seconds,
        "served_per_second": len(outcome.lists) / outcome.seconds,
        "statuses": {str(status): n for status, n in sorted(outcome.statuses.items())},
        "event_ms": percentiles(outcome.events),
        "list_ms": percentiles(outcome.lists),
        "visit_ms": percentiles(outcome.visits),
        "refusal_ms": percentiles(outcome.refusals),
        "settled_s": outcome.settled,
        "stages_us": {name: percentiles(values) for name, values in stages.items()},
        "bytes": outcome.list_bytes,
        "cpu_ms_per_visit": {name: 1000 * value / count for name, value in used.items()},
        "memory_mb": {name: value / 1e6 for name, value in memory().items()},
    }


def percentiles(values: Sequence[float]) -> dict[str, float]:
    if not values:
        return {}
    found = np.percentile(values, PERCENTILES).tolist()
    named = {f"p{p:g}": value for p, value in zip(PERCENTILES, found, strict=True)}
    return {**named, "max": max(values)}


def cpu_seconds() -> dict[str, float]:
    """CPU seconds that this process and those it started have used so far, by what they do."""
    found: dict[str, float] = {}
    for name, text in _told("stat"):
        found[name] = found.get(name, 0.0) + processor_seconds(text)
    return found


def memory() -> dict[str, float]:
    """Bytes in memory, what several share divided among them (PSS), by what processes do."""
    found: dict[str, float] = {}
    for name, text in _told("smaps_rollup"):
        for line in text.splitlines():
            if line.startswith("Pss:"):
                found[name] = found.get(name, 0.0) + int(line.split()[1]) * 1024
    return found


def _told(file: str) -> Iterator[tuple[str, str]]:
    """What the system says of each process in a file, and what the process does."""
    for pid, name in _processes().items():
        with contextlib.suppress(OSError):  # it has ended
            yield name, Path(f"/proc/{pid}/{file}").read_text()


def _processes() -> dict[int, str]:
    """The processes below this one by what they do: load, workers, reader, redis."""
    parent_of, command_of = {}, {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            command, _, rest = path.read_text().partition("(")[2].rpartition(")")
        except OSError:  # it has ended
            continue
        pid = int(path.parent.name)
        parent_of[pid], command_of[pid] = int(rest.split()[1]), command
    ours = {os.getpid(): "load"}
    for _ in range(5):  # generations
        for pid, parent in parent_of.items():
            if parent in ours and pid not in ours:
                roles = (role for word, role in ROLES.items() if word in command_of[pid])
                ours[pid] = next(roles, "server")
    return ours


def tables(found: Mapping[str, Any]) -> list[Table]:
    """What a person wants to see of it."""
    times = Table(
        *(
            "visits/s",
            "event p50",
            "p99",
            "list p50",
            "p90",
            "p99",
            "visit p99",
            "CPU ms",
            "not 2xx",
        ),
        box=SIMPLE,
        title="milliseconds by load",
        title_justify="left",
    )
    rows = [(row, "") for row in found["rates"]]
    rows += [(found["saturated"], " (most)")]
    rows += [(row, " (canned)") for row in found["limit_rates"]]
    for row, kind in rows:
        events, lists, visits = (row[name] for name in ("event_ms", "list_ms", "visit_ms"))
        cells = [events["p50"], events["p99"], lists["p50"], lists["p90"], lists["p99"]]
        times.add_row(
            f"{row['per_second']:,.0f}{kind}",
            *(f"{value:.2f}" for value in [*cells, visits["p99"]]),
            f"{sum(row['cpu_ms_per_visit'].values()):.2f}",
            str(sum(n for status, n in row["statuses"].items() if not status.startswith("2"))),
        )
    stages = Table(*("stage", "p50", "p99"), box=SIMPLE, title="microseconds of a list")
    stages.title_justify = "left"
    middle = found["rates"][len(found["rates"]) // 2] if found["rates"] else found["saturated"]
    for name, values in middle["stages_us"].items():
        stages.add_row(name, f"{values['p50']:.0f}", f"{values['p99']:.0f}")
    most = Table("", "", box=SIMPLE, show_header=False)
    most.add_row("visits/s, at most", f"{found['saturated']['per_second']:,.0f}")
    most.add_row("lists/s, at most", f"{found['lists']['per_second']:,.0f}")
    most.add_row("lists/s, canned: the limit", f"{found['limit']['per_second']:,.0f}")
    most.add_row("ratio to the limit", f"{found['ratio_to_limit']:.2f}")
    if too_much := found.get("overload"):
        _add_overload(most, too_much)
    for name in ("cpu_ms_per_visit", "memory_mb"):
        parts = ", ".join(f"{k} {v:.2f}" for k, v in found["saturated"][name].items())
        most.add_row(name, parts)
    return [times, stages, most]


def _add_overload(table: Table, found: Mapping[str, Any]) -> None:
    during, statuses = found["during"], found["during"]["statuses"]
    answers = sum(statuses.values())
    refused = answers - statuses.get("200", 0) - statuses.get("202", 0)
    p99 = ", ".join(f"{name} {during[f'{name}_ms']['p99']:.1f}" for name in ("event", "list"))
    table.add_row("overload, visits/s begun", f"{during['rate']:,.0f}")
    table.add_row("answers refused", f"{refused / answers:.0%}")
    table.add_row("p99 of what is served, ms", p99)
    table.add_row("visits/s served", f"{during['served_per_second']:,.0f}")
    table.add_row("seconds until all is well", f"{found['after']['settled_s']:.2f}")
