"""Telemetry: Prometheus metrics, summed over all workers when PROMETHEUS_MULTIPROC_DIR is set."""

import os
from collections.abc import Mapping
from time import perf_counter
from typing import Any, TypeVar

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
    multiprocess,
)
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from recsys.store import Appended, Lag

MULTIPROC_DIR = "PROMETHEUS_MULTIPROC_DIR"

requests = Counter("recsys_http_requests", "Requests answered", ["method", "route", "status"])
seconds = Histogram(
    "recsys_http_request_seconds",
    "Time to answer",
    ["route"],
    buckets=(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5),
)
recommendations = Counter("recsys_recommendations", "Lists by how they were made", ["tier"])
degraded = Counter("recsys_recommendations_degraded", "Lists of a lower tier", ["reason"])
events = Counter("recsys_events", "Events by what became of them", ["outcome"])
quarantined = Counter("recsys_quarantined_sessions", "Sessions put into quarantine")
refused = Counter("recsys_requests_refused", "Requests refused as there was too much to do")
store_errors = Counter("recsys_store_errors", "Calls that Redis did not answer")
log_events = Gauge(
    "recsys_log_lag_events", "Events that are in no file yet", multiprocess_mode="livemostrecent"
)
log_seconds = Gauge(
    "recsys_log_lag_seconds",
    "Age of the oldest event that is in no file yet",
    multiprocess_mode="livemostrecent",
)
# Counted in Redis, by all workers, which may be on several machines.
quality_scored = Gauge(
    "recsys_quality_scored",
    "Events that a list was made just before",
    ["bundle"],
    multiprocess_mode="livemostrecent",
)
quality_hits = Gauge(
    "recsys_quality_hits",
    "Events whose item the list made just before held",
    ["bundle"],
    multiprocess_mode="livemostrecent",
)
unscored = Counter("recsys_quality_unscored", "Events of the sample not scored", ["reason"])
rollbacks = Counter("recsys_rollbacks", "Bundles withdrawn for what live visitors did")
bundle_info = Gauge(
    "recsys_bundle_info", "1 for the bundle served", ["version"], multiprocess_mode="livemax"
)


Labelled = TypeVar("Labelled", Counter, Histogram)
_labelled: dict[tuple[object, ...], Any] = {}


def labelled(metric: Labelled, *labels: object) -> Labelled:
    """A metric's child: Prometheus's own search for it takes several times as long as counting."""
    key = (metric, *labels)
    found: Labelled | None = _labelled.get(key)
    if found is None:
        found = _labelled[key] = metric.labels(*labels)
    return found


for outcome in ("accepted", "duplicate", "rejected"):  # told of before there is one
    labelled(events, outcome)


def bundle_swapped(old: str | None, new: str) -> None:
    if old:
        bundle_info.labels(old).set(0)
    bundle_info.labels(new).set(1)


def events_recorded(appended: Appended, rejected: int) -> None:
    counts = {"accepted": appended.accepted, "duplicate": appended.duplicates, "rejected": rejected}
    for outcome, count in counts.items():
        if count:
            labelled(events, outcome).inc(count)
    if appended.quarantined:
        quarantined.inc(appended.quarantined)


def log_lags(lag: Lag, now: float) -> None:
    log_events.set(lag.events)
    log_seconds.set(0.0 if lag.oldest is None else max(0.0, now - lag.oldest))


def qualities(counts: Mapping[str, tuple[int, int]]) -> None:
    for bundle, (scored, hits) in counts.items():
        quality_scored.labels(bundle).set(scored)
        quality_hits.labels(bundle).set(hits)


def recommended(tier: str, reason: str | None) -> None:
    labelled(recommendations, tier).inc()
    if reason:
        degraded.labels(reason).inc()


def exposition() -> tuple[bytes, str]:
    """The metrics in Prometheus text form, and its content type."""
    registry = REGISTRY
    if os.environ.get(MULTIPROC_DIR):
        registry = CollectorRegistry()
        multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return generate_latest(registry), CONTENT_TYPE_LATEST


class Telemetry:
    """Counts and times each request under its route's pattern."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        status = 500

        async def observe(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        start = perf_counter()
        try:
            await self.app(scope, receive, observe)
        finally:
            # Ids in paths would make a time series each, so the pattern stands for the path.
            route = getattr(scope.get("route"), "path", "unmatched")
            labelled(seconds, route).observe(perf_counter() - start)
            labelled(requests, scope["method"], route, status).inc()
