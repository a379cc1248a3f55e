"""Report: what an evaluation found, as values and as plain JSON."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from recsys.evaluation.systems import SYSTEMS
from recsys.metrics import Estimate

Means = dict[str, float]  # "metric@k" -> mean over samples


@dataclass(frozen=True)
class Lift:
    """What one system adds to another: relative (0.5 is half as good again) and in the metric."""

    relative: Estimate
    difference: Estimate

    def to_dict(self) -> dict[str, Any]:
        return {**self.relative.to_dict(), "difference": self.difference.to_dict()}


@dataclass(frozen=True)
class Batch:
    """Which mixes stand for ``batch``: the strongest in ``metric`` on the evaluated lists.

    known, strangers: the mix that answers them, None where there are none. mixes: "known" and
    "strangers" -> mix -> the metric of those that were compared.
    """

    metric: str
    known: str | None
    strangers: str | None
    mixes: dict[str, dict[str, float]]


@dataclass(frozen=True)
class Calibration:
    """Shares of popularity buckets (`recsys.metrics.BUCKETS`).

    chosen: in what was looked for. systems: in the places of each system's lists of ``at``, and
    "divergence" from chosen in nats.
    """

    at: int
    chosen: dict[str, float]
    systems: dict[str, dict[str, float]]


@dataclass(frozen=True)
class Part:
    """One part of the samples. systems: of batch, session and full. lift: of full over batch."""

    samples: int
    clusters: int
    systems: dict[str, Means]
    lift: dict[str, Lift]


@dataclass(frozen=True)
class Delay:
    """``full``, seeing only events so old or older. loss: of its quality against no delay."""

    delay: str
    seconds: float
    figures: Means
    loss: dict[str, Lift]


@dataclass(frozen=True)
class Report:
    """What an evaluation found; fractions, never percent.

    systems: system -> "metric@k" -> mean over samples. lift: "metric@k" -> what full adds to batch,
    with 95 % intervals. latency_us: microseconds of folding the session and ranking, for ``full``.
    sessions, clusters: how many gave samples; a cluster is a user, or a session without one.
    clock: "time", or "rows" where a log has no times.
    slices: what is sliced by -> part. silent: systems that gave the popular list throughout.
    partial: interrupted; the figures hold for what was done.
    notes: what a reader must know. warnings: where a figure means little.
    """

    protocol: str
    placement: str
    samples: int
    sessions: int
    clusters: int
    systems: dict[str, Means]
    lift: dict[str, Lift]
    latency_us: dict[str, float]
    batch: Batch
    calibration: Calibration
    bundle: str
    seed: int
    clock: str = "time"
    slices: dict[str, dict[str, Part]] = field(default_factory=dict)
    freshness: list[Delay] = field(default_factory=list)
    silent: list[str] = field(default_factory=list)
    partial: bool = False
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def columns(self) -> list[str]:
        """Names of the figures, "metric@k"."""
        return list(self.systems[SYSTEMS[0]])

    def to_dict(self) -> dict[str, Any]:
        """The report as plain JSON values."""
        plain: dict[str, Any] = _plain(self)
        return plain


def _plain(value: Any) -> Any:
    if isinstance(value, Lift | Estimate):
        return value.to_dict()
    if dataclasses.is_dataclass(value):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    return value
