"""What scripts/bench_ranking.py measures with a trained bundle in its own process.

Two ways to rank that are not ours, as yardsticks on the same questions, and the time of ours.
"""

import dataclasses
import gc
import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from vmis_knn import VmisKnn, reciprocal_rank, tuned

from recsys.bundle import Bundle
from recsys.config import EmbeddingConfig, Placement
from recsys.evaluation.replay import Sample
from recsys.index import Index
from recsys.interactions import fold
from recsys.logs import Log
from recsys.models import embedding
from recsys.recommend import Request, recommend

K = 20
# Before what counts, as many as a worker answers in its first minutes: by then it remembers ids.
LATENCY_REQUESTS, LATENCY_WARM = 5_000, 10_000
LATENCY_PASSES = 5
PERCENTILES = (50, 90, 99)

Record = dict[str, Any]


def measured_lists(asked: list[Sample], rank: Callable[[Sample], float]) -> Record:
    """P@20 and MRR@20 of a way to rank. rank: 1 / place of the next item, 0 beyond the list."""
    ranks = np.array([rank(sample) for sample in asked])
    return {
        "hr@20": float((ranks > 0).mean()),
        "mrr@20": float(ranks.mean()),
        "samples": len(ranks),
    }


def als(bundle: Bundle, train: Log, asked: list[Sample]) -> Record:
    """The session folded into an ALS embedding of the training part, and nothing else."""
    chosen = EmbeddingConfig(model="als", embedding_size=128)
    config = dataclasses.replace(
        bundle.config,
        embedding=chosen,
        placements={"default": Placement(exclude=(), ranking="embedding")},
    )
    data, training = fold(train.frame, config.events), config.training
    vectors = embedding.fit(data.by_visitor, chosen, training.seed, training.threads)
    # Both fold the same log, so their rows are the same items.
    index = Index(vectors.item_factors)
    alone = dataclasses.replace(bundle, config=config, embedding=vectors, index=index)

    def rank(sample: Sample) -> float:
        answer = recommend(alone, sample.moment.session(config), Request(n=K)).item_ids
        target = sample.upcoming[0]
        return 1 / (answer.index(target) + 1) if target in answer else 0.0

    return measured_lists(asked, rank)


def vmis(bundle: Bundle, train: Log, asked: list[Sample]) -> Record:
    """VMIS-kNN as published, its three parameters chosen on the tail of the training part."""
    data = fold(train.frame, bundle.config.events)
    parameters = tuned(data.sequences, len(data.items))
    model = VmisKnn(data.sequences, len(data.items), parameters)

    def rank(sample: Sample) -> float:
        query = data.items.rows(sample.seen[: -parameters.last_items - 1 : -1])
        target = data.items.rows(sample.upcoming[:1])[0]
        return reciprocal_rank(model.recommend(query[query >= 0], K), target)

    return {**measured_lists(asked, rank), "parameters": dataclasses.asdict(parameters)}


def latency(bundle: Bundle, _train: Log, asked: list[Sample]) -> Record:
    """Microseconds of recommend() for sessions at every stage, replayed in order, warm.

    A machine that others use is now slower and now faster, so there are several passes over all
    requests, and each percentile is the median of theirs.
    """
    every = max(1, len(asked) // (LATENCY_REQUESTS + LATENCY_WARM))
    chosen = asked[::every][: LATENCY_REQUESTS + LATENCY_WARM]
    sessions = [sample.moment.session(bundle.config) for sample in chosen]
    gc.freeze()  # as a worker does before it serves
    passes = []
    for _ in range(LATENCY_PASSES):
        taken = []
        for session in sessions:
            start = time.perf_counter_ns()
            recommend(bundle, session, Request(n=K))
            taken.append((time.perf_counter_ns() - start) / 1000)
        warm = taken[-LATENCY_REQUESTS:] if len(taken) > LATENCY_WARM else taken[len(taken) // 2 :]
        passes.append([float(p) for p in np.percentile(warm, PERCENTILES)])
    middle = np.median(passes, axis=0).tolist()
    return {
        **{f"p{p}": value for p, value in zip(PERCENTILES, middle, strict=True)},
        "passes": passes,
        "requests": len(warm),
        # Says whether the machine was quiet: with 1 or less only this process was at work.
        "load": os.getloadavg()[0],
    }


MEASURES = {"latency": latency, "als": als, "vmis": vmis}
