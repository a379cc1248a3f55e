"""Training: from a log to a bundle, read top to bottom."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from time import perf_counter
from typing import Any

import numpy as np
import polars as pl
from rich.progress import Progress

from recsys import index as faiss_index
from recsys import ranking, retrieval
from recsys.bundle import Bundle, Facts, sealed
from recsys.config import Config
from recsys.evaluation.replay import Sample, samples
from recsys.evaluation.split import EvaluationError, split
from recsys.interactions import NoInteractionsError, Sequences, fold
from recsys.logs import Log, log_from_frame
from recsys.models import (
    embedding,
    forest,
    item_knn,
    popularity,
    session_embedding,
    session_knn,
    transitions,
)

NO_SEQUENCES = Sequences(np.zeros(1, dtype=np.int64), np.zeros(0, dtype=np.int32))


def train(
    log: Log | pl.DataFrame | Any,
    config: Config | None = None,
    progress: Progress | None = None,
    seconds: dict[str, float] | None = None,
) -> Bundle:
    """Fit every model on a log and gather them in a bundle that is not published yet.

    log: a loaded Log, or a polars or pandas frame in log columns. seconds: filled with the time
    each stage took. Raises LogError, NoInteractionsError, FloatingPointError.
    """
    config = config or Config()
    log = log if isinstance(log, Log) else log_from_frame(log, config=config.events)
    stages = _Stages(progress, {} if seconds is None else seconds)
    trees, features, ranker = _fit_ranker(log, config, stages)
    bundle = _fit_sources(log, config, stages, "", for_ranker=len(trees.roots) > 0)
    with stages.of("recall"):
        metrics = {**_recall(bundle), **bundle.facts.metrics}
    facts = replace(bundle.facts, metrics=metrics, features=features, ranker=ranker)
    return sealed(replace(bundle, forest=trees, facts=facts))


def _recall(bundle: Bundle) -> dict[str, float]:
    """What each index finds of the exact neighbours."""
    config, seed = bundle.config, bundle.config.training.seed
    depth = config.index.recall_at
    return {
        f"index_recall@{depth}": faiss_index.measured_recall(bundle.index, config.index, seed),
        f"session_index_recall@{depth}": faiss_index.measured_recall(
            bundle.session_index, config.session_index, seed
        ),
    }


def _fit_sources(
    log: Log, config: Config, stages: "_Stages", prefix: str, for_ranker: bool = True
) -> Bundle:
    """Everything but the ranker, as a bundle that ranks by the blend.

    for_ranker: fit the sources that only a ranker asks; else they stay empty.
    """
    seed, threads = config.training.seed, config.training.threads
    with stages.of(prefix + "interactions"):
        data = fold(log.frame, config.events)
    items = len(data.items)
    sequences = data.sequences if for_ranker else NO_SEQUENCES
    with stages.of(prefix + "embedding", config.embedding.epochs) as tick:
        vectors = embedding.fit(data.by_visitor, config.embedding, seed, threads, tick)
    with stages.of(prefix + "item_knn"):
        neighbours = item_knn.fit(data.by_session, config.item_knn, threads)
    with stages.of(prefix + "transitions"):
        table = transitions.fit(sequences, items, config.transitions)
    with stages.of(prefix + "session_knn"):
        sessions = session_knn.fit(sequences, items, config.session_knn)
    epochs = config.session_embedding.epochs
    with stages.of(prefix + "session_embedding", epochs) as tick:
        encoder = session_embedding.fit(sequences, items, config.session_embedding, seed, tick)
    with stages.of(prefix + "index"):
        index = faiss_index.build(vectors.item_factors, config.index, seed)
        session_index = faiss_index.build(encoder.item_vectors, config.session_index, seed)
    return Bundle(
        version="",
        config=config,
        facts=Facts(
            cutoff=float(log.frame["timestamp"].max()),  # type: ignore[arg-type]  # not empty
            clock=log.clock,
            counts={
                "events": len(log.frame),
                "users": len(data.users),
                "items": items,
                "sessions": data.sessions,
            },
            metrics={"repeat_purchase_rate": data.repeat_purchase_rate},
            exclude_bought=data.repeat_purchase_rate < config.training.repeat_purchase_rate,
            ranker="blend",
            features={},
        ),
        items=data.items,
        users=data.users,
        history=data.history,
        popularity=popularity.fit(data.sequences, data.popularity),
        embedding=vectors,
        item_knn=neighbours,
        transitions=table,
        session_knn=sessions,
        session_embedding=encoder,
        forest=forest.EMPTY,
        index=index,
        session_index=session_index,
    )


def _fit_ranker(
    log: Log, config: Config, stages: "_Stages"
) -> tuple[forest.Forest, dict[str, float], str]:
    """The forest, its features' shares of the gain, and what was done and why.

    The log's tail is replayed against sources fitted on what precedes it, through the same
    retrieval and features that will serve: nothing it learns from knew its future.
    """
    if not config.ranker.enabled:
        return forest.EMPTY, {}, "blend: the ranker is off in the configuration"
    if _simultaneous(log.frame) > 0.5:
        reason = "most events share the time of the one before (baskets), and the order of events"
        return forest.EMPTY, {}, f"blend: {reason} is what the ranker learns from"
    try:
        parts = split(log, str(config.ranker.tail))
        head = _fit_sources(parts.train, config, stages, "head_")
    except (EvaluationError, NoInteractionsError) as error:
        return forest.EMPTY, {}, f"blend: {error}"
    names = list(ranking.FEATURES)
    head = replace(head, facts=replace(head.facts, features=dict.fromkeys(names, 0.0)))
    with stages.of("ranker_data"):
        table, labels, groups = _examples(head, parts.test, config)
    if len(groups) < config.ranker.min_requests:
        return (
            forest.EMPTY,
            {},
            f"blend: {len(groups)} requests to learn from, {config.ranker.min_requests} needed",
        )
    with stages.of("ranker", config.ranker.trees) as tick:
        seed, threads = config.training.seed, config.training.threads
        trees, gain = forest.fit(table, labels, groups, names, config.ranker, seed, threads, tick)
    return trees, gain, f"forest of {config.ranker.trees} trees from {len(groups)} requests"


def _examples(
    head: Bundle, tail: Log, config: Config
) -> tuple[
    retrieval.Floats, np.ndarray[Any, np.dtype[np.int8]], np.ndarray[Any, np.dtype[np.int64]]
]:
    """Features and labels of the candidates of sampled requests that hold the next item."""
    rng = np.random.default_rng(config.training.seed)
    chance = config.ranker.requests / max(1, len(tail.frame))
    tables, labels, groups = [], [], []
    for sample in samples(tail.frame, config):
        if rng.random() >= chance:
            continue
        who = retrieval.profile(head, sample.moment.session(config))
        if not len(who.sequence):
            continue
        candidates = retrieval.retrieve(head, who, 0)
        right = candidates.rows == head.items.rows([_wanted(sample)])[0]
        if right.any():
            tables.append(ranking.feature_table(head, who, candidates).T)
            labels.append(right.astype(np.int8))
            groups.append(len(right))
    if not groups:
        return np.zeros((0, 0), dtype=np.float32), np.zeros(0, np.int8), np.zeros(0, np.int64)
    return np.concatenate(tables), np.concatenate(labels), np.array(groups)


def _simultaneous(frame: pl.DataFrame) -> float:
    """Share of the events after the first of their session that have the time of the one before."""
    steps = frame.select(pl.col("timestamp").diff().over("session_id")).to_series().drop_nulls()
    return float((steps == 0).mean() or 0.0)  # type: ignore[arg-type]  # of booleans: a float


def _wanted(sample: Sample) -> str:
    return sample.upcoming[0]


class _Stages:
    """Progress and seconds of named stages."""

    def __init__(self, progress: Progress | None, seconds: dict[str, float]) -> None:
        self.progress = progress
        self.seconds = seconds

    @contextmanager
    def of(self, name: str, steps: int = 1) -> Iterator[Any]:
        task = self.progress.add_task(name, total=steps) if self.progress else None

        def tick() -> None:
            if self.progress and task is not None:
                self.progress.advance(task)

        start = perf_counter()
        yield tick
        self.seconds[name] = round(perf_counter() - start, 3)
        if self.progress and task is not None:
            self.progress.update(task, completed=steps)
