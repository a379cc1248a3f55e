"""Findings: from the figures of all lists to what a report says of them."""

from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recsys.evaluation.report import Batch, Calibration, Delay, Lift, Means, Part
from recsys.evaluation.systems import MIXES, STRANGER_MIXES, SYSTEMS, mix_name, stale_name
from recsys.evaluation.tally import Figures
from recsys.metrics import (
    BUCKETS,
    Floats,
    bootstrap_means,
    coverage,
    difference,
    miscalibration,
    relative_lift,
)

# Interest in training below which an item is rare, in views: about where a model begins to tell
# an item from its neighbours by more than chance.
RARE = 5.0

SLICES: dict[str, dict[str, pl.Expr]] = {
    "session length": {
        "1": pl.col("prefix") == 1,
        "2": pl.col("prefix") == 2,
        "3-4": pl.col("prefix").is_between(3, 4),
        "5-8": pl.col("prefix").is_between(5, 8),
        "9+": pl.col("prefix") >= 9,
    },
    "visitor": {"known to training": pl.col("known"), "new": ~pl.col("known")},
    "item looked for": {
        "in training": pl.col("interest") >= RARE,
        "rare in training": pl.col("interest").is_between(0, RARE, closed="none"),
        "never in training": pl.col("interest") == 0,
    },
    "repeat": {"new to the session": ~pl.col("repeated"), "again": pl.col("repeated")},
}

FEW_SAMPLES, FEW_CLUSTERS = 100, 30  # below which figures, and intervals, mean little


def strongest_batch(figures: Figures) -> Batch:
    """The best mixes for known users and for strangers, by NDCG of the longest lists."""
    metric = f"ndcg@{max(figures.at)}"
    column = figures.columns.index(metric)
    known = figures.facts["known"].to_numpy()
    parts = {"strangers": (~known, STRANGER_MIXES), "known": (known, MIXES)}
    mixes = {
        part: {mix: _mean(figures.of(_list_name(mix))[rows, column]) for mix in compared}
        for part, (rows, compared) in parts.items()
        if rows.any()
    }
    best = {part: max(found, key=lambda mix: found[mix]) for part, found in mixes.items()}
    return Batch(metric, best.get("known"), best.get("strangers"), mixes)


def with_batch(
    figures: Figures, batch: Batch, extra: Sequence[str], delays: Mapping[str, float]
) -> Figures:
    """The figures of SYSTEMS, of ``extra`` and of the delayed ones, the mixes put together."""
    stranger, known = (_list_name(mix or "popular") for mix in (batch.strangers, batch.known))
    late = [stale_name(seconds) for seconds in delays.values() if seconds]
    whole = {name: (name, name) for name in (*SYSTEMS, *extra, *late) if name != "batch"}
    chosen = {"batch": (stranger, known), **whole}
    return figures.choose({name: chosen[name] for name in (*SYSTEMS, *extra, *late)})


def means(figures: Figures, name: str) -> Means:
    """The means of one system, and its coverage."""
    found = dict(zip(figures.columns, _means(figures.of(name)), strict=True))
    shown = figures.shown[figures.names.index(name)].any(axis=0)
    for j, k in enumerate(figures.at):
        found[f"coverage@{k}"] = coverage(shown[j])
    return found


def lifts(
    figures: Figures, baseline: str, best: str, seed: int, rows: NDArray[np.bool_] | None = None
) -> dict[str, Lift]:
    """What one system adds to another in every metric of quality, over all rows or some.

    More coverage or popularity is not better in itself, so the make-up of lists has no lift.
    """
    chosen = slice(None) if rows is None else rows
    quality = [figures.columns.index(name) for name in figures.quality]
    first = figures.of(baseline)[chosen][:, quality].astype(np.float64)
    second = figures.of(best)[chosen][:, quality].astype(np.float64)
    clusters = figures.facts["cluster"].to_numpy()[chosen]
    dense = np.unique(clusters, return_inverse=True)[1]
    draws = bootstrap_means(np.hstack([first, second]), dense, seed=seed)
    return {
        name: _lift(first[:, j], second[:, j], draws[:, [j, j + len(quality)]])
        for j, name in enumerate(figures.quality)
    }


def slices(figures: Figures, seed: int) -> dict[str, dict[str, Part]]:
    """The same figures for every part of SLICES that has samples."""
    found: dict[str, dict[str, Part]] = {}
    for kind, parts in SLICES.items():
        for name, condition in parts.items():
            rows = figures.facts.select(condition).to_series().to_numpy()
            if rows.any():
                found.setdefault(kind, {})[name] = _part(figures, rows, seed)
    return found


def freshness(figures: Figures, delays: Mapping[str, float], seed: int) -> list[Delay]:
    """``full`` at every delay, and what it loses against none."""
    curve = []
    for text, seconds in delays.items():
        name = stale_name(seconds) if seconds else "full"
        loss = {
            metric: Lift(lift.relative.negated(), lift.difference.negated())
            for metric, lift in lifts(figures, "full", name, seed).items()
        }
        curve.append(Delay(text, seconds, _quality(figures, figures.of(name)), loss))
    return curve


def calibration(figures: Figures, names: Sequence[str]) -> Calibration:
    """How the lists' shares of popular and rare items compare with those of what was chosen."""
    chosen = _shares(figures.chosen)
    systems = {}
    for name in names:
        shown = _shares(figures.buckets[figures.names.index(name)].sum(axis=0))
        shares = dict(zip(BUCKETS, shown.tolist(), strict=True))
        systems[name] = {**shares, "divergence": miscalibration(chosen, shown)}
    return Calibration(max(figures.at), dict(zip(BUCKETS, chosen.tolist(), strict=True)), systems)


def warnings(figures: Figures, items: int) -> list[str]:
    """Where a figure means little, and what would mean more."""
    facts, k = figures.facts, max(figures.at)
    clusters = facts["cluster"].n_unique()
    found = []
    if len(facts) < FEW_SAMPLES:
        found.append(f"only {len(facts)} lists: the figures mean little; replay a longer log")
    if clusters < FEW_CLUSTERS:
        found.append(f"only {clusters} visitors: the intervals rest on too few and mean little")
    if not facts["known"].any():
        found.append("training knew no user of the lists: batch is the same list for every visitor")
    if items <= k:
        found.append(
            f"the catalogue holds {items} items, no more than a list of {k}: every list holds "
            "nearly all of it; choose a smaller --at"
        )
    if facts["repeated"].all():
        found.append(
            "every item looked for was in its session already: a list of the last items may do "
            "as well; --placement discover looks for new ones"
        )
    if facts["unseen"].sum() == facts["wanted"].sum():
        found.append("no item looked for occurred in training: nothing could be found")
    return found


def silent(figures: Figures, names: Sequence[str]) -> list[str]:
    """Those of the systems whose every list was the popular one: they had nothing to say."""
    popular = figures.of("popular")
    shown = figures.shown[figures.names.index("popular")]
    return [
        name
        for name in names
        if np.array_equal(figures.of(name), popular)
        and np.array_equal(figures.shown[figures.names.index(name)], shown)
    ]


def _list_name(mix: str) -> str:
    return mix if mix == "popular" else mix_name(mix)


def _part(figures: Figures, rows: NDArray[np.bool_], seed: int) -> Part:
    systems = ("batch", "session", "full")
    return Part(
        samples=int(rows.sum()),
        clusters=figures.facts.filter(rows)["cluster"].n_unique(),
        systems={name: _quality(figures, figures.of(name)[rows]) for name in systems},
        lift=lifts(figures, "batch", "full", seed, rows),
    )


def _quality(figures: Figures, values: NDArray[np.float32]) -> Means:
    found = dict(zip(figures.columns, _means(values), strict=True))
    return {name: found[name] for name in figures.quality}


def _lift(baseline: Floats, best: Floats, draws: Floats) -> Lift:
    return Lift(relative_lift(baseline, best, draws), difference(baseline, best, draws))


def _shares(counts: NDArray[np.int64]) -> Floats:
    shares: Floats = counts / max(1, counts.sum())
    return shares


def _means(values: NDArray[np.float32]) -> list[float]:
    found: list[float] = values.mean(axis=0, dtype=np.float64).tolist()
    return found


def _mean(values: NDArray[np.float32]) -> float:
    return float(values.mean(dtype=np.float64))
