"""Ablation: what each source and each group of features is worth, found by doing without it.

The ranker is trained once more without the part, from the same examples; a source that is off also
proposes nothing when lists are made. All lists of one moment are made one after another, so that
figures and microseconds are paired.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from time import perf_counter_ns
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.progress import Progress
from threadpoolctl import threadpool_limits

from recsys import features, retrieval
from recsys.bundle import Bundle
from recsys.evaluation.evaluate import cluster, drawn, looked_for, moments
from recsys.evaluation.systems import Panel
from recsys.logs import Log
from recsys.metrics import METRICS, bootstrap_means, difference
from recsys.recommend import Request, recommend
from recsys.session import Session
from recsys.training import Examples, NothingToLearnError, Stages, examples, learn

LISTS = 4_000  # made by every variant, at most
REQUESTS = 12_000  # that a ranker learns from here: a dozen are trained


@dataclass(frozen=True)
class Variant:
    """A bundle with one part off. group: what kind of part, "" where nothing is off."""

    off: str
    group: str
    bundle: Bundle


def ablation(
    bundle: Bundle,
    train: Log,
    test: Log,
    *,
    protocol: str,
    min_prefix: int,
    at: int,
    placement: str,
    seed: int,
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """One row a part: {off, group, figures, difference, microseconds}; nothing without a ranker.

    figures: "metric@k" -> mean. difference: the same less that with all parts, with its 95 %
    interval, sessions drawn whole. microseconds: median of a request, less that with all parts.
    """
    if not len(bundle.forest.leaves):
        return []
    settings = replace(bundle.config.ranker, requests=min(REQUESTS, bundle.config.ranker.requests))
    try:
        shown = examples(train, replace(bundle.config, ranker=settings), Stages(progress))
    except NothingToLearnError:
        return []
    variants = list(_variants(bundle, shown, progress))
    values, clusters, spent = _values(
        variants, test, protocol, min_prefix, at, placement, seed, progress
    )
    if not len(clusters):
        return []
    columns = [f"{name}@{at}" for name in METRICS]
    rows = []
    for v, variant in enumerate(variants[1:], 1):
        draws = bootstrap_means(np.hstack([values[:, 0], values[:, v]]), clusters, seed=seed)
        rows.append(
            {
                "off": variant.off,
                "group": variant.group,
                "figures": dict(zip(columns, values[:, v].mean(axis=0).tolist(), strict=True)),
                "difference": {
                    column: difference(
                        values[:, 0, c], values[:, v, c], draws[:, [c, c + len(columns)]]
                    ).to_dict()
                    for c, column in enumerate(columns)
                },
                "microseconds": float(np.median(spent[:, v]) - np.median(spent[:, 0])),
            }
        )
    return rows


def _variants(bundle: Bundle, shown: Examples, progress: Progress | None) -> Iterator[Variant]:
    """Nothing off, each source off, each group of features that there is off."""
    config = bundle.config
    sources = [name for name in retrieval.SOURCES if getattr(config.retrieval, name)]
    parts = [
        ("", "", frozenset[str]()),
        *((name, "source", features.source_features(name)) for name in sources),
        *(
            (name, "features", frozenset(group))
            for name, group in features.GROUPS.items()
            if not group.keys().isdisjoint(shown.names)
        ),
    ]
    stages = Stages()
    task = progress.add_task("ablation", total=len(parts)) if progress else None
    for off, group, without in parts:
        ranker = learn(shown, config, without=without, stages=stages)
        facts = replace(bundle.facts, features=ranker.features)
        asked = replace(config.retrieval, **{off: 0}) if group == "source" else config.retrieval
        changed = replace(config, retrieval=asked)
        yield Variant(
            off, group, replace(bundle, forest=ranker.forest, facts=facts, config=changed)
        )
        if progress and task is not None:
            progress.advance(task)


def _values(
    variants: list[Variant],
    test: Log,
    protocol: str,
    min_prefix: int,
    at: int,
    placement: str,
    seed: int,
    progress: Progress | None,
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.float64]]:
    """Figures [lists, variants, METRICS], clusters [lists], microseconds [lists, variants]."""
    bundle = variants[0].bundle
    panel, request = Panel(bundle, placement, at), Request(n=at, placement=placement)
    found = moments(test, bundle.config, protocol, min_prefix, drawn(test, LISTS, seed))
    task = progress.add_task("ablation lists", total=LISTS) if progress else None
    values, clusters, spent = [], [], []
    with threadpool_limits(1):
        for sample in islice(found, LISTS):
            session = sample.moment.session(bundle.config)
            _, targets = looked_for(panel, sample, session, protocol)
            if targets:
                # Whoever is asked first fetches the visitor's items from memory for all others.
                recommend(bundle, session, request)
                answers = [_timed(variant.bundle, session, request) for variant in variants]
                hits = np.zeros((len(variants), at), dtype=bool)
                for v, (items, _) in enumerate(answers):
                    hits[v, : len(items)] = [item in targets for item in items]
                wanted = np.full(len(variants), len(targets))
                values.append(np.stack([m(hits, wanted, at) for m in METRICS.values()], axis=1))
                spent.append([microseconds for _, microseconds in answers])
                clusters.append(cluster(session))
            if progress and task is not None:
                progress.advance(task)
    numbers = np.unique(clusters, return_inverse=True)[1]
    return np.array(values), numbers, np.array(spent)


def _timed(bundle: Bundle, session: Session, request: Request) -> tuple[list[str], float]:
    start = perf_counter_ns()
    items = recommend(bundle, session, request).item_ids
    return items, (perf_counter_ns() - start) / 1000
