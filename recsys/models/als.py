"""ALS: implicit-feedback matrix factorisation (Hu, Koren, Volinsky, ICDM 2008)."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from threadpoolctl import threadpool_limits

from recsys.config import EmbeddingConfig

RESUMED = 2  # epochs from a start that is nearly right


def fit(
    matrix: sparse.csr_matrix,
    config: EmbeddingConfig,
    seed: int,
    threads: int,
    tick: Callable[[], None],
    start: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """Item factors, float32 [items, embedding_size]; the same for the same seed and matrix.

    start: factors of most of the items, zero for the others; a few epochs then take in what is new.
    """
    from implicit.cpu.als import AlternatingLeastSquares  # takes long, and what serves needs none

    # implicit runs its own threads; BLAS threads beside them only fight for the same cores.
    with threadpool_limits(1, "blas"):
        model = AlternatingLeastSquares(
            factors=config.embedding_size,
            regularization=config.reg,
            alpha=config.alpha,
            iterations=config.epochs if start is None else RESUMED,
            num_threads=threads,
            random_state=seed,
        )
        model.item_factors = start  # the visitors', solved first, follow from them
        model.fit(matrix, show_progress=False, callback=lambda *_: tick())
    factors: NDArray[np.float32] = model.item_factors
    return factors
