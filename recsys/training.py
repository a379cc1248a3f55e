"""Training: from a log to a bundle, read top to bottom."""

from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Any

import polars as pl
from rich.progress import Progress

from recsys import index as faiss_index
from recsys.bundle import Bundle, Facts, Popularity, sealed
from recsys.config import Config
from recsys.interactions import fold
from recsys.logs import Log, log_from_frame
from recsys.models import embedding, item_knn


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
    seconds = {} if seconds is None else seconds
    seed, threads = config.training.seed, config.training.threads

    with _stage("interactions", seconds, progress):
        data = fold(log.frame, config.events)
    with _stage("embedding", seconds, progress, config.embedding.epochs) as tick:
        vectors = embedding.fit(data.by_visitor, config.embedding, seed, threads, tick)
    with _stage("item_knn", seconds, progress):
        neighbours = item_knn.fit(data.by_session, config.item_knn, threads)
    with _stage("index", seconds, progress):
        index = faiss_index.build(vectors.item_factors, config.index, seed)
        recall = faiss_index.measured_recall(index, config.index, seed)

    bundle = Bundle(
        version="",
        config=config,
        facts=Facts(
            cutoff=float(log.frame["timestamp"].max()),  # type: ignore[arg-type]  # not empty
            clock=log.clock,
            counts={
                "events": len(log.frame),
                "users": len(data.users),
                "items": len(data.items),
                "sessions": data.sessions,
            },
            metrics={
                f"index_recall@{config.index.recall_at}": recall,
                "repeat_purchase_rate": data.repeat_purchase_rate,
            },
            exclude_bought=data.repeat_purchase_rate < config.training.repeat_purchase_rate,
        ),
        items=data.items,
        users=data.users,
        history=data.history,
        popularity=Popularity(data.popularity),
        embedding=vectors,
        item_knn=neighbours,
        index=index,
    )
    return sealed(bundle)


@contextmanager
def _stage(
    name: str, seconds: dict[str, float], progress: Progress | None, steps: int = 1
) -> Iterator[Any]:
    task = progress.add_task(name, total=steps) if progress else None

    def tick() -> None:
        if progress and task is not None:
            progress.advance(task)

    start = perf_counter()
    yield tick
    seconds[name] = round(perf_counter() - start, 3)
    if progress and task is not None:
        progress.update(task, completed=steps)
