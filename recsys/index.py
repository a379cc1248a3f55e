"""Index: the nearest items to a vector by inner product. Only this module imports faiss."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numba import njit
from numpy.typing import NDArray

from recsys.config import ConfigError, IndexConfig

# Allowed items up to which each is looked at: as fast as the approximate kinds, and exact.
FEW = 3_000


class Index:
    """Inner-product search over item factors, float32 [items, d].

    ``exact`` scans the (memory-mapped) factors themselves and has no file of its own; the other
    kinds hold a FAISS structure and re-score what it finds, so scores are exact for every kind.
    """

    def __init__(self, factors: NDArray[np.float32], approximate: Any = None) -> None:
        self.factors = factors
        self.approximate = approximate
        # Whether what it keeps of the vectors is less than they are, and so its inner products.
        whole = (faiss.IndexHNSWFlat, faiss.IndexIVFFlat)
        self.coarse = approximate is not None and not isinstance(approximate, whole)

    def search(
        self, vector: NDArray[np.float32], k: int, allowed: NDArray[np.bool_] | None = None
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Up to k item rows and their inner products, best first, ties by row.

        allowed: bool [items], only of these rows, and k of them wherever there are so many.
        """
        if allowed is not None:
            return self._search_allowed(vector, k, allowed)
        k = min(k, len(self.factors))
        query = np.ascontiguousarray(vector, dtype=np.float32)[None, :]
        if self.approximate is None:
            products, rows = faiss.knn(query, self.factors, k, metric=faiss.METRIC_INNER_PRODUCT)
        else:
            products, rows = self.approximate.search(query, k)
        return self._sorted(vector, rows[0], products[0])

    def _search_allowed(
        self, vector: NDArray[np.float32], k: int, allowed: NDArray[np.bool_]
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        count = int(np.count_nonzero(allowed))
        k = min(k, count)
        if self.approximate is not None and count > FEW:
            query = np.ascontiguousarray(vector, dtype=np.float32)[None, :]
            bits = np.packbits(allowed, bitorder="little")
            selector = faiss.IDSelectorBitmap(len(allowed), faiss.swig_ptr(bits))
            params = _parameters(self.approximate, selector, count / len(allowed))
            products, rows = self.approximate.search(query, k, params=params)
            if (rows[0] >= 0).all():  # else what it looked at held too few
                return self._sorted(vector, rows[0], products[0])
        return _nearest(self.factors, np.flatnonzero(allowed), vector, k)

    def _sorted(
        self,
        vector: NDArray[np.float32],
        rows: NDArray[np.int64],
        products: NDArray[np.float32],
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        if not self.coarse:
            return _in_order(rows, products)
        found = rows[rows >= 0].astype(np.int32)
        scores: NDArray[np.float32] = self.factors[found] @ vector
        order = np.lexsort((found, -scores))
        return found[order], scores[order]


def _nearest(
    factors: NDArray[np.float32], rows: NDArray[np.intp], vector: NDArray[np.float32], k: int
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """The k of these ascending rows with the highest inner products, exactly."""
    products = _products(factors, rows, np.ascontiguousarray(vector, dtype=np.float32))
    if 0 < k < len(rows):
        least = np.partition(products, len(rows) - k)[len(rows) - k]
        high = np.flatnonzero(products >= least)  # more than k where several are equal
        rows, products = rows[high], products[high]
    order = np.lexsort((rows, -products))[:k]
    return rows[order].astype(np.int32), products[order]


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract", "nsz"})
def _products(
    factors: NDArray[np.float32], rows: NDArray[np.intp], vector: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Inner products of these rows with a vector, without a copy of them."""
    products = np.empty(len(rows), np.float32)
    for k in range(len(rows)):
        total = np.float32(0)
        for j in range(len(vector)):
            total += factors[rows[k], j] * vector[j]
        products[k] = total
    return products


def _parameters(approximate: Any, selector: Any, share: float) -> Any:
    """How to search among selected items: as many of them are looked at as are of all without.

    share: of all items that are selected.
    """
    if isinstance(approximate, faiss.IndexIVF):
        params: Any = faiss.SearchParametersIVF()
        params.nprobe = min(approximate.nlist, int(np.ceil(approximate.nprobe / share)))
    elif isinstance(approximate, faiss.IndexHNSW):
        params = faiss.SearchParametersHNSW()  # type: ignore[attr-defined]  # not in its stubs
        params.efSearch = int(np.ceil(approximate.hnsw.efSearch / share))
    else:
        params = faiss.SearchParameters()
    params.sel = selector
    return params


@njit(cache=True, nogil=True)
def _in_order(
    rows: NDArray[np.int64], products: NDArray[np.float32]
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Rows with descending products, those of equal ones ascending; -1 stands for none."""
    found = np.empty(len(rows), np.int32)
    n = 0
    while n < len(rows) and rows[n] >= 0:
        at = n
        while at > 0 and products[at - 1] == products[n] and found[at - 1] > rows[n]:
            found[at] = found[at - 1]
            at -= 1
        found[at] = rows[n]
        n += 1
    return found[:n], products[:n].copy()


def build(factors: NDArray[np.float32], config: IndexConfig, seed: int) -> Index:
    """An index of the configured kind; the same for the same factors and seed."""
    if config.kind == "exact" or (config.kind == "auto" and len(factors) <= config.exact_items):
        return Index(factors)
    with _one_thread():
        approximate = _empty(factors, config)
        if isinstance(approximate, faiss.IndexIVF):
            approximate.cp.seed = seed
        if isinstance(approximate, faiss.IndexIVFPQ):
            approximate.pq.cp.seed = seed
        if not approximate.is_trained:
            approximate.train(factors)
        approximate.add(factors)
    return Index(factors, approximate)


def measured_recall(index: Index, config: IndexConfig, seed: int) -> float:
    """Share of the exact top ``recall_at`` that the index finds, over sampled item vectors."""
    if index.approximate is None:
        return 1.0
    rng = np.random.default_rng(seed)
    count = min(config.recall_queries, len(index.factors))
    queries = index.factors[np.sort(rng.choice(len(index.factors), count, replace=False))]
    depth = min(config.recall_at, len(index.factors))
    _, exact = faiss.knn(queries, index.factors, depth, metric=faiss.METRIC_INNER_PRODUCT)
    _, found = index.approximate.search(queries, depth)
    return (
        float(np.mean([len(np.intersect1d(a, b)) for a, b in zip(exact, found, strict=True)]))
        / depth
    )


def description(index: Index) -> str:
    """What kind of index it is, with what decides its recall."""
    kind = index.approximate
    if kind is None:
        return "exact"
    if isinstance(kind, faiss.IndexHNSW):
        return f"hnsw, efSearch {kind.hnsw.efSearch}"
    name = type(kind).__name__.removeprefix("Index")
    return (
        f"{name}, {kind.nprobe} of {kind.nlist} lists" if isinstance(kind, faiss.IndexIVF) else name
    )


def save(index: Index, path: Path) -> None:
    """Write the approximate structure; nothing for an exact index."""
    if index.approximate is not None:
        faiss.write_index(index.approximate, str(path))


def load(factors: NDArray[np.float32], path: Path) -> Index:
    """The index over these factors, memory-mapped from ``path`` if there is such a file."""
    if not path.exists():
        return Index(factors)
    return Index(factors, faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC))


def _empty(factors: NDArray[np.float32], config: IndexConfig) -> Any:
    items, d = factors.shape
    if config.kind == "hnsw":
        graph = faiss.IndexHNSWFlat(d, config.hnsw_links, faiss.METRIC_INNER_PRODUCT)
        graph.hnsw.efConstruction = config.hnsw_build
        graph.hnsw.efSearch = config.hnsw_search
        return graph
    if config.kind == "sq8":
        kind = faiss.ScalarQuantizer.QT_8bit
        return faiss.IndexScalarQuantizer(d, kind, faiss.METRIC_INNER_PRODUCT)
    if config.kind == "ivfpq" and items < 256:
        raise ConfigError(
            f"index.kind: ivfpq needs 256 items or more, the log has {items}: use exact"
        )
    # FAISS wants 39 vectors for each centre.
    lists = config.ivf_lists or max(1, min(int(config.ivf_density * items**0.5), items // 39))
    centres = faiss.IndexFlatIP(d)
    if config.kind == "ivfpq":
        parts = next(m for m in range(min(config.pq_subvectors, d), 0, -1) if d % m == 0)
        ivf: Any = faiss.IndexIVFPQ(centres, d, lists, parts, 8, faiss.METRIC_INNER_PRODUCT)
    else:
        ivf = faiss.IndexIVFFlat(centres, d, lists, faiss.METRIC_INNER_PRODUCT)
    ivf.nprobe = config.ivf_probes
    return ivf


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """FAISS builds differ from run to run with several threads."""
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(threads)
