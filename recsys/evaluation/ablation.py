"""Ablation: what each source and each group of features is worth, found by doing without it.

The ranker is trained once more without the part, from the same examples; a source that is off also
proposes nothing when lists are made. All lists of one moment are made one after another, each time
from another variant on, so that figures and microseconds are paired.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import islice
from time import perf_counter_ns
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.progress import Progress
from threadpoolctl import threadpool_limits

from recsys import features, retrieval
from recsys.aggregate_log import LogFold, told_to_ranker
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
class Ablation:
    """What was asked of every variant, and what came of it.

    lists: made by each. requests: that each ranker learned from. figures: "metric@k" -> mean, with
    all parts. microseconds: median of a request, with all parts. parts: one row each: {off, group,
    figures, difference, microseconds}, the latter two less those with all parts; a difference has
    its 95 % interval, sessions drawn whole.
    """

    lists: int
    requests: int
    figures: dict[str, float]
    microseconds: float
    parts: list[dict[str, Any]]

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self)


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
) -> Ablation | None:
    """Do without each part of a bundle, trained on ``train``, in turn; None without a ranker."""
    if not len(bundle.forest.leaves):
        return None
    settings = replace(bundle.config.ranker, requests=min(REQUESTS, bundle.config.ranker.requests))
    try:
        shown = examples(train, replace(bundle.config, ranker=settings), Stages(progress))
    except NothingToLearnError:
        return None
    variants = list(_variants(bundle, shown, progress))
    fold = told_to_ranker(bundle.config, test.frame, train.frame)
    values, clusters, spent = _values(
        variants, test, protocol, min_prefix, at, placement, seed, progress, fold
    )
    if not len(clusters):
        return None
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
    return Ablation(
        lists=len(values),
        requests=len(shown.groups),
        figures=dict(zip(columns, values[:, 0].mean(axis=0).tolist(), strict=True)),
        microseconds=float(np.median(spent[:, 0])),
        parts=rows,
    )


def _variants(bundle: Bundle, shown: Examples, progress: Progress | None) -> Iterator[Variant]:
    """Nothing off, each source off, each group of features that there is off."""
    config = bundle.config
    sources = [name for name in retrieval.SOURCES if getattr(config.retrieval, name)]
    parts = [
        ("", "", frozenset[str]()),
        *((name, "source", features.source_features(name)) for name in sources),
        *(
            (name, "features", frozenset(group))
            for name, group in features.groups_of(config).items()
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
        without_it = replace(
            bundle, forest=ranker.forest, net=ranker.net, facts=facts, config=changed
        )
        yield Variant(off, group, without_it)
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
    fold: LogFold | None,
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.float64]]:
    """Figures [lists, variants, METRICS], clusters [lists], microseconds [lists, variants]."""
    bundle = variants[0].bundle
    panel, request = Panel(bundle, placement, at), Request(n=at, placement=placement)
    found = moments(test, bundle.config, protocol, min_prefix, drawn(test, LISTS, seed), fold)
    task = progress.add_task("ablation lists", total=LISTS) if progress else None
    values: list[NDArray[np.float64]] = []
    clusters, spent = [], []
    with threadpool_limits(1):
        for sample in islice(found, LISTS):
            session = sample.moment.session(bundle.config)
            _, targets = looked_for(panel, sample, session, protocol)
            if targets:
                # Whoever is asked first fetches the visitor's items from memory for all others. It
                # is the one asked last, as its own ranker would be found at hand.
                recommend(variants[(len(values) - 1) % len(variants)].bundle, session, request)
                answers = _answers(variants, session, request, first=len(values))
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


def _answers(
    variants: list[Variant], session: Session, request: Request, first: int
) -> list[tuple[list[str], float]]:
    """Items and microseconds of every variant. first: who is asked first, as the later find more of
    what they need in the processor's caches."""
    order = np.roll(np.arange(len(variants)), -first).tolist()
    answers = {v: _timed(variants[v].bundle, session, request) for v in order}
    return [answers[v] for v in range(len(variants))]


def _timed(bundle: Bundle, session: Session, request: Request) -> tuple[list[str], float]:
    start = perf_counter_ns()
    items = recommend(bundle, session, request).item_ids
    return items, (perf_counter_ns() - start) / 1000
