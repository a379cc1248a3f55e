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

# Of codes so many times as many are found as are asked for, and the best of them kept.
SPARE = 1.25
# What is looked at in one search: lists of ivf, candidates of hnsw; from, and up to, so many.
PROBES, CANDIDATES, STEP = (4, 64), (64, 512), 1.4
FOR_A_CENTRE = 64  # vectors that k-means looks at
# Allowed items up to which each is looked at: as fast as the approximate kinds, and exact. Of hnsw,
# which comes by many that are not allowed, so many for each candidate that it would look at.
FEW, FOR_A_CANDIDATE = 3_000, 40
TINY = 1e-9


class Index:
    """Inner-product search over item factors, float32 [items, d].

    ``exact`` scans the (memory-mapped) factors themselves and has no file of its own; the other
    kinds hold a FAISS structure and re-score what it finds, so scores are exact for every kind.
    """

    def __init__(self, factors: NDArray[np.float32], approximate: Any = None) -> None:
        self.factors = factors
        self.approximate = approximate

    def search(
        self, vector: NDArray[np.float32], k: int, allowed: NDArray[np.bool_] | None = None
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """k item rows, or all where there are fewer, and their inner products, best first, ties by
        row.

        allowed: bool [items], only of these rows, and k of them wherever there are so many.
        """
        if allowed is not None:
            return self._search_allowed(vector, k, allowed)
        k = min(k, len(self.factors))
        if self.approximate is not None:
            found = self.looked_at(vector, k)
            if len(found[0]) == k:  # else what it looked at held too few
                return found
        query = np.ascontiguousarray(vector, dtype=np.float32)[None, :]
        products, rows = faiss.knn(query, self.factors, k, metric=faiss.METRIC_INNER_PRODUCT)
        return _in_order(rows[0], products[0])

    def looked_at(
        self, vector: NDArray[np.float32], k: int
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """The best k of what the approximate structure looks at, which may be fewer."""
        query = np.ascontiguousarray(vector, dtype=np.float32)[None, :]
        _, rows = self.approximate.search(query, min(len(self.factors), _more(k)))
        return self._best(vector, rows[0], k)

    def _search_allowed(
        self, vector: NDArray[np.float32], k: int, allowed: NDArray[np.bool_]
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        count = int(np.count_nonzero(allowed))
        k = min(k, count)
        share = count / len(allowed)
        if self.approximate is not None and count > _few(self.approximate, share):
            query = np.ascontiguousarray(vector, dtype=np.float32)[None, :]
            bits = np.packbits(allowed, bitorder="little")
            selector = faiss.IDSelectorBitmap(len(allowed), faiss.swig_ptr(bits))
            params = _parameters(self.approximate, selector, share)
            _, rows = self.approximate.search(query, min(count, _more(k)), params=params)
            if (rows[0] >= 0).all():  # else what it looked at held too few
                return self._best(vector, rows[0], k)
        return _nearest(self.factors, np.flatnonzero(allowed), vector, k)

    def _best(
        self, vector: NDArray[np.float32], rows: NDArray[np.int64], k: int
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """The best k of what was found, by the vectors themselves."""
        vector = np.ascontiguousarray(vector, dtype=np.float32)
        found: tuple[NDArray[np.int32], NDArray[np.float32]] = _rescored(
            self.factors, rows, vector, k
        )
        return found


def _more(k: int) -> int:
    """How many to find by codes where k are asked for."""
    return int(np.ceil(SPARE * k))


def _nearest(
    factors: NDArray[np.float32], rows: NDArray[np.intp], vector: NDArray[np.float32], k: int
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """The k of these ascending rows with the highest inner products, exactly."""
    products = inner_products(factors, rows, np.ascontiguousarray(vector, dtype=np.float32))
    if 0 < k < len(rows):
        least = np.partition(products, len(rows) - k)[len(rows) - k]
        high = np.flatnonzero(products >= least)  # more than k where several are equal
        rows, products = rows[high], products[high]
    order = np.lexsort((rows, -products))[:k]
    return rows[order].astype(np.int32), products[order]


@njit(cache=True, nogil=True)
def _rescored(
    factors: NDArray[np.float32], rows: NDArray[np.int64], vector: NDArray[np.float32], k: int
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """The k of these rows, -1 for none, with the highest inner products."""
    found = np.sort(rows[rows >= 0])
    products = inner_products(factors, found, vector)
    order = np.argsort(-products, kind="mergesort")[:k]  # stable: ties by row
    return found[order].astype(np.int32), products[order]


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract", "nsz"})
def inner_products(
    factors: NDArray[np.float32], rows: NDArray[np.integer], vector: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Inner products of these rows with a vector, without a copy of them."""
    products = np.empty(len(rows), np.float32)
    for k in range(len(rows)):
        total = np.float32(0)
        for j in range(len(vector)):
            total += factors[rows[k], j] * vector[j]
        products[k] = total
    return products


def _few(approximate: Any, share: float) -> float:
    """Allowed items up to which each is looked at; share: they are of all."""
    if isinstance(approximate, faiss.IndexHNSW):
        return max(FEW, FOR_A_CANDIDATE * approximate.hnsw.efSearch / max(share, TINY))
    return FEW


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
    if config.kind != "auto":
        return _searching(_filled(factors, config, config.kind, seed), config, seed)
    index = _searching(_filled(factors, config, "ivf", seed), config, seed)
    if measured_recall(index, config, seed) >= config.recall_target:
        return index
    return _searching(_filled(factors, config, "hnsw", seed), config, seed)


def _filled(factors: NDArray[np.float32], config: IndexConfig, kind: str, seed: int) -> Index:
    with _one_thread():
        approximate = _empty(factors, config, kind)
        if isinstance(approximate, faiss.IndexIVF):
            approximate.cp.seed = seed
            approximate.cp.max_points_per_centroid = FOR_A_CENTRE
        if isinstance(approximate, faiss.IndexIVFPQ):
            approximate.pq.cp.seed = seed
        if not approximate.is_trained:
            approximate.train(factors)
        approximate.add(factors)
    return Index(factors, approximate)


def _searching(index: Index, config: IndexConfig, seed: int) -> Index:
    """The index, looking at as much as is configured; else at STEP times as much, and so on, until
    it finds enough."""
    of: Any = index.approximate
    if isinstance(of, faiss.IndexIVF):
        name, given, least, most = "nprobe", config.ivf_probes, PROBES[0], PROBES[1]
        most = min(most, of.nlist)
    elif isinstance(of, faiss.IndexHNSW):
        of, name, given, (least, most) = of.hnsw, "efSearch", config.hnsw_search, CANDIDATES
    else:
        return index
    setattr(of, name, given or min(least, most))
    if not given:
        queries, exact = _sampled(index, config, seed)
        while getattr(of, name) < most and _recall(index, queries, exact) < config.recall_target:
            setattr(of, name, min(most, round(STEP * getattr(of, name))))
    return index


def measured_recall(index: Index, config: IndexConfig, seed: int) -> float:
    """Share of the exact top ``recall_at`` that the index finds, over sampled item vectors."""
    return 1.0 if index.approximate is None else _recall(index, *_sampled(index, config, seed))


def _sampled(
    index: Index, config: IndexConfig, seed: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Vectors of some items, and the rows that are nearest to each."""
    rng = np.random.default_rng(seed)
    count = min(config.recall_queries, len(index.factors))
    queries = index.factors[np.sort(rng.choice(len(index.factors), count, replace=False))]
    depth = min(config.recall_at, len(index.factors))
    _, rows = faiss.knn(queries, index.factors, depth, metric=faiss.METRIC_INNER_PRODUCT)
    return queries, rows


def _recall(index: Index, queries: NDArray[np.float32], exact: NDArray[np.int64]) -> float:
    depth = exact.shape[1]
    found = [index.looked_at(query, depth)[0] for query in queries]
    both = zip(found, exact, strict=True)
    return float(np.mean([len(np.intersect1d(a, b)) / depth for a, b in both]))


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


def _empty(factors: NDArray[np.float32], config: IndexConfig, kind: str) -> Any:
    (items, d), metric = factors.shape, faiss.METRIC_INNER_PRODUCT
    codes = faiss.ScalarQuantizer.QT_8bit
    if kind == "hnsw":
        graph = faiss.IndexHNSWSQ(d, codes, config.hnsw_links, metric)  # type: ignore[arg-type]  # its stubs err
        graph.hnsw.efConstruction = config.hnsw_build
        return graph
    if kind == "sq8":
        return faiss.IndexScalarQuantizer(d, codes, metric)
    if kind == "ivfpq" and items < 256:
        raise ConfigError(
            f"index.kind: ivfpq needs 256 items or more, the log has {items}: use exact"
        )
    # FAISS wants 39 vectors for each centre.
    lists = min(config.ivf_lists, items) or max(1, min(int(items**0.6), items // 39))
    centres = faiss.IndexFlatIP(d)
    if kind == "ivfpq":
        parts = next(m for m in range(min(config.pq_subvectors, d), 0, -1) if d % m == 0)
        return faiss.IndexIVFPQ(centres, d, lists, parts, 8, metric)
    ivf = faiss.IndexIVFScalarQuantizer(centres, d, lists, codes, metric)
    ivf.by_residual = False  # codes of the vectors themselves: nothing is added list by list
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
