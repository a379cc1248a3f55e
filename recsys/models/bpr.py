"""BPR: pairwise ranking of seen over unseen items (Rendle et al., UAI 2009)."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from recsys.config import EmbeddingConfig


def fit(
    matrix: sparse.csr_matrix,
    config: EmbeddingConfig,
    seed: int,
    threads: int,
    tick: Callable[[], None],
    start: NDArray[np.float32] | None = None,  # noqa: ARG001  # it needs the visitors' vectors too
) -> NDArray[np.float32]:
    """Item factors, float32 [items, embedding_size]; reproducible with one thread."""
    from implicit.cpu.bpr import BayesianPersonalizedRanking  # as in als.py

    model = BayesianPersonalizedRanking(
        factors=config.embedding_size,
        regularization=0.01,
        learning_rate=config.learning_rate,
        iterations=config.epochs,
        num_threads=max(1, threads),
        random_state=seed,
    )
    model.fit(matrix, show_progress=False, callback=lambda *_: tick())
    # The last column is the item's bias, which is its popularity; that is a feature of its own.
    factors: NDArray[np.float32] = model.item_factors[:, : config.embedding_size]
    return factors
