"""Measure lists for all users beside implicit: the time they take, and that of the factors.

    python scripts/bench_batch.py --data ../shared/data --json

On the training part of Gowalla. *lists*: the 100 best items of every user by the embedding, what
they have visited left out: `model.recommend` of implicit, and ours by the same item factors and the
same vectors of users; then ours with the fold-in that makes these vectors, and as the whole of
`recsys recommend --source embedding`, Parquet included. *fit*: what `recsys train` does for the
factors, and the bare `fit` of implicit with the same settings. *full*: users a second of `recsys
recommend` by the ranking that serves. All take turns, and the best of several counts; BLAS has one
thread throughout, as implicit asks for, and both have as many of their own.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from implicit.cpu.als import AlternatingLeastSquares
from implicit.cpu.bpr import BayesianPersonalizedRanking
from rich.console import Console
from rich.table import Table
from scipy import sparse
from threadpoolctl import threadpool_limits

from recsys import topk
from recsys.batch import BLOCK, Batch, Order, lists
from recsys.bundle import Bundle
from recsys.config import Config, EmbeddingConfig, config_from_dict
from recsys.interactions import fold
from recsys.listfiles import written
from recsys.logs import Log, load_log
from recsys.models import embedding
from recsys.registry import Registry
from recsys.retrieval import fold_in_users
from recsys.training import train
from recsys.userfiles import all_users

FILE = "gowalla-lightgcn.parquet"
N = 100
LISTS_MUST, LISTS_AIM = 1.0, 0.5  # of implicit's time
FIT_MUST, FIT_AIM = 1.15, 1.05

console = Console(stderr=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help=f"the folder that holds {FILE}")
    parser.add_argument("--embedding-size", type=int, nargs="+", default=[64, 128], metavar="D")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="last line of stdout: one JSON object")
    args = parser.parse_args()
    found: dict[str, Any] = {"load": os.getloadavg()[0], "lists": [], "fit": [], "full": []}
    with tempfile.TemporaryDirectory() as work, threadpool_limits(1):
        log = training_part(args.data / FILE, Path(work))
        for size in args.embedding_size:
            order = trained(log, size, Path(work) / f"bundles-{size}")
            for threads in args.threads:
                console.print(f"lists and fit: {size} factors, {threads} threads")
                found["lists"].append(lists_beside(order, size, threads, args.repeats, Path(work)))
                found["fit"] += fits_beside(log, size, threads, args.repeats)
        for threads in args.threads:
            console.print(f"full: {threads} threads")
            found["full"].append(full(Order(order.folder), threads, Path(work)))
    for table in tables(found):
        console.print(table)
    if args.json:
        print(json.dumps(found), flush=True)


def training_part(path: Path, work: Path) -> Log:
    part = work / "train.parquet"
    pl.read_parquet(path).filter(pl.col("split") == 0).drop("split").write_parquet(part)
    columns = {"user_id": "user", "session_id": "user", "item_id": "item"}
    return load_log([part], columns=columns, default_type="purchase")


def config_of(size: int, model: str = "als") -> Config:
    # What is searched by sessions has no part in lists of users without one.
    quick = {"epochs": 1, "embedding_size": 8}
    tables = {"embedding": {"model": model, "embedding_size": size}, "session_embedding": quick}
    return config_from_dict(tables)


def trained(log: Log, size: int, folder: Path) -> Order:
    """A published bundle, and the order for lists by its embedding."""
    console.print(f"training with {size} factors")
    registry = Registry(folder)
    registry.publish(train(log, config_of(size)))
    return Order(registry.folder(), N, source="embedding")


def lists_beside(order: Order, size: int, threads: int, repeats: int, work: Path) -> dict[str, Any]:
    batch = order.batch().prepared()
    bundle = batch.bundle
    users = np.arange(len(bundle.users), dtype=np.int32)
    blocks = [users[at : at + BLOCK] for at in range(0, len(users), BLOCK)]
    vectors = fold_in_users(bundle, users, batch.projected)
    theirs = visited(bundle)
    model = AlternatingLeastSquares(factors=size, num_threads=threads)
    model.user_factors, model.item_factors = vectors, np.asarray(bundle.embedding.item_factors)

    def same_vectors(block: Any) -> Any:
        starts = theirs.indptr[block[0] : block[-1] + 2].astype(np.int64)
        return topk.top(batch.longest, vectors[block], starts, theirs.indices, N)

    with ThreadPoolExecutor(threads, initializer=threadpool_limits, initargs=(1,)) as pool:
        seconds, results = in_turns(
            {
                "implicit": lambda: model.recommend(users, theirs, N=N),
                "same_vectors": lambda: list(pool.map(same_vectors, blocks)),
                "fold_in": lambda: list(pool.map(batch.top, blocks)),
                "whole": partial(to_parquet, order, batch, threads, work),
            },
            repeats,
        )
    ours = np.concatenate([rows for rows, _ in results["fold_in"]])
    held = [len(np.intersect1d(a, b)) for a, b in zip(results["implicit"][0], ours, strict=True)]
    return {
        "size": size,
        "threads": threads,
        "users": len(users),
        "items": len(bundle.items),
        "seconds": seconds,
        "ratio": {name: taken / seconds["implicit"] for name, taken in seconds.items()},
        "same_items": float(np.mean(held)) / N,
        "same_lists": float(np.mean(np.array(held) == N)),
    }


def visited(bundle: Bundle) -> sparse.csr_matrix:
    """What each user's list leaves out, as implicit takes it."""
    history = bundle.history
    values = np.ones(len(history.items), dtype=np.float32)
    matrix = sparse.csr_matrix(
        (values, np.array(history.items), np.array(history.indptr)),
        shape=(len(bundle.users), len(bundle.items)),
    )
    matrix.sort_indices()
    return matrix


def to_parquet(order: Order, batch: Batch, threads: int, work: Path) -> int:
    """All that `recsys recommend` does once the bundle is loaded; returns the rows."""
    with written(work / "recs.parquet", {}) as file:
        for _, frame in lists(order, batch, all_users(batch.bundle.users), threads):
            file.add(frame)
    return file.rows


def fits_beside(log: Log, size: int, threads: int, repeats: int) -> list[dict[str, Any]]:
    found = []
    for name in ("als", "bpr"):
        config = config_of(size, name)
        matrix, seed = fold(log.frame, config.events).by_visitor, config.training.seed
        model, bare = config.embedding, BARE[name]
        seconds, _ = in_turns(
            {
                "implicit": partial(bare, matrix, model, seed, threads),
                "ours": partial(embedding.fit, matrix, model, seed, threads),
            },
            repeats,
        )
        ratio = seconds["ours"] / seconds["implicit"]
        told = {"model": name, "size": size, "threads": threads, "epochs": model.epochs}
        found.append({**told, "seconds": seconds, "ratio": ratio})
    return found


def bare_als(matrix: Any, config: EmbeddingConfig, seed: int, threads: int) -> None:
    AlternatingLeastSquares(
        factors=config.embedding_size,
        regularization=config.reg,
        alpha=config.alpha,
        iterations=config.epochs,
        num_threads=threads,
        random_state=seed,
    ).fit(matrix, show_progress=False)


def bare_bpr(matrix: Any, config: EmbeddingConfig, seed: int, threads: int) -> None:
    BayesianPersonalizedRanking(
        factors=config.embedding_size,
        regularization=0.01,
        learning_rate=config.learning_rate,
        iterations=config.epochs,
        num_threads=threads,
        random_state=seed,
    ).fit(matrix, show_progress=False)


BARE = {"als": bare_als, "bpr": bare_bpr}


def full(order: Order, threads: int, work: Path) -> dict[str, Any]:
    batch = order.batch()
    batch.lists(batch.bundle.users.ids(range(BLOCK)))  # compiles
    start = time.perf_counter()
    rows = to_parquet(order, batch, threads, work)
    seconds = time.perf_counter() - start
    users = len(batch.bundle.users)
    return {
        "threads": threads,
        "users": users,
        "rows": rows,
        "seconds": seconds,
        "users_per_second": users / seconds,
    }


def in_turns(
    calls: dict[str, Callable[[], Any]], repeats: int
) -> tuple[dict[str, float], dict[str, Any]]:
    """The best seconds of each, and what it gave; each is called once before, to compile."""
    results = {name: call() for name, call in calls.items()}
    seconds = dict.fromkeys(calls, float("inf"))
    for _ in range(repeats):
        for name, call in calls.items():
            start = time.perf_counter()
            results[name] = call()
            seconds[name] = min(seconds[name], time.perf_counter() - start)
    return seconds, results


def tables(found: dict[str, Any]) -> Sequence[Table]:
    by_users = Table(
        "factors", "threads", "implicit", "ours", "with fold-in", "whole", "same items"
    )
    by_users.title = (
        f"top {N} of all users, s, and over implicit's (must {LISTS_MUST}, aim {LISTS_AIM})"
    )
    for row in found["lists"]:
        seconds, ratio = row["seconds"], row["ratio"]
        taken = [f"{seconds[k]:.2f} ({ratio[k]:.2f})" for k in ("same_vectors", "fold_in", "whole")]
        told = [str(row["size"]), str(row["threads"]), f"{seconds['implicit']:.2f}"]
        by_users.add_row(*told, *taken, f"{row['same_items']:.4%}")
    fits = Table("model", "factors", "threads", "epochs", "implicit", "ours", "ratio")
    fits.title = f"fit of the factors, s (ratio: must {FIT_MUST}, aim {FIT_AIM})"
    for row in found["fit"]:
        told = [str(row[name]) for name in ("model", "size", "threads", "epochs")]
        taken = [f"{row['seconds'][name]:.2f}" for name in ("implicit", "ours")]
        fits.add_row(*told, *taken, f"{row['ratio']:.3f}")
    whole = Table("threads", "users", "s", "users a second", title="full ranking, 20 items")
    for row in found["full"]:
        speed = f"{row['users_per_second']:,.0f}"
        whole.add_row(str(row["threads"]), f"{row['users']:,}", f"{row['seconds']:.1f}", speed)
    return by_users, fits, whole


if __name__ == "__main__":
    main()
