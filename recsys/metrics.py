"""Metrics: how good ranked lists are, and how sure we may be of a difference.

``hits`` is bool [lists, depth]: the item at that rank was looked for; ranks beyond the depth are
misses. ``wanted`` is int [lists]: how many distinct items were looked for, at least 1, whether or
not a list could hold them.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Hits = NDArray[np.bool_]
Counts = NDArray[np.int64]
Floats = NDArray[np.float64]


def hit_rate(hits: Hits, _wanted: Counts, k: int) -> Floats:
    """1 if any wanted item is among the first k, else 0.

    With one wanted item it equals recall and is the P@k of the session literature (Wu et al.,
    "Session-based recommendation with graph neural networks", AAAI 2019).
    """
    return (_found(hits, k) > 0).astype(np.float64)


def precision(hits: Hits, _wanted: Counts, k: int) -> Floats:
    """Wanted items among the first k / k.

    Source: Manning, Raghavan, Schütze, "Introduction to information retrieval", 2008, ch. 8.4.
    """
    share: Floats = _found(hits, k) / k
    return share


def recall(hits: Hits, wanted: Counts, k: int) -> Floats:
    """Wanted items among the first k / all wanted items. Source: as for precision, ch. 8.3."""
    share: Floats = _found(hits, k) / wanted
    return share


def ndcg(hits: Hits, wanted: Counts, k: int) -> Floats:
    """DCG / ideal DCG with binary gain, DCG = sum over ranks r = 1..k of hit(r) / log2(r + 1).

    The ideal list has its min(wanted, k) hits first. Source: Järvelin & Kekäläinen, "Cumulated
    gain-based evaluation of IR techniques", TOIS 2002.
    """
    discount = 1.0 / np.log2(np.arange(2, k + 2))
    ideal = np.cumsum(discount)[np.minimum(wanted, k) - 1]
    gain: Floats = hits[:, :k] @ discount[: hits.shape[1]] / ideal
    return gain


def mrr(hits: Hits, _wanted: Counts, k: int) -> Floats:
    """1 / rank of the first wanted item, 0 if it stands beyond k.

    Source: Voorhees, "The TREC-8 question answering track report", 1999.
    """
    first = hits[:, :k].argmax(axis=1)  # 0 without any hit
    reciprocal: Floats = hits[:, :k].any(axis=1) / (first + 1.0)
    return reciprocal


# Metrics of one list; a report shows them under these names, as in "ndcg@20".
METRICS: dict[str, Callable[[Hits, Counts, int], Floats]] = {
    "hr": hit_rate,
    "mrr": mrr,
    "ndcg": ndcg,
    "recall": recall,
    "precision": precision,
}


def coverage(shown: NDArray[np.bool_]) -> float:
    """Share of the catalogue that stands in at least one list. shown: bool [items].

    Source: Ge, Delgado-Battenfeld, Jannach, "Beyond accuracy", RecSys 2010, "catalog coverage".
    """
    return float(shown.mean()) if len(shown) else 0.0


def mean_popularity(lists: NDArray[np.int32], counts: NDArray[np.float32]) -> Floats:
    """Mean over a list of each item's share of all interest in training, a fraction, per list.

    lists: int32 [lists, k], item rows, -1 where a list is shorter; an empty list gives 0.
    counts: float32 [items], summed event weights. A list of items drawn uniformly has 1 / items.
    After "ARP" in Yin et al., "Challenging the long tail recommendation", VLDB 2012, normalised.
    """
    share = np.append(counts / max(counts.sum(dtype=np.float64), 1e-12), 0.0)  # row -1 has none
    mean: Floats = share[lists].sum(axis=1) / np.maximum((lists >= 0).sum(axis=1), 1)
    return mean


def novelty(lists: NDArray[np.int32], counts: NDArray[np.float32]) -> Floats:
    """Mean self-information of a list's items in bits: mean of -log2 p(i), per list.

    p(i) is the item's share of all interest in training; shapes as in :func:`mean_popularity`.
    Source: Zhou et al., "Solving the apparent diversity-accuracy dilemma of recommender systems",
    PNAS 2010, "surprisal"; there p(i) counts users.
    """
    bits = np.append(-np.log2(counts / counts.sum(dtype=np.float64)), 0.0)  # row -1 has none
    mean: Floats = bits[lists].sum(axis=1) / np.maximum((lists >= 0).sum(axis=1), 1)
    return mean


def diversity(lists: NDArray[np.int32], vectors: NDArray[np.float32]) -> Floats:
    """1 - mean cosine of all pairs of a list's items, per list; 0 with fewer than two items.

    lists: int32 [lists, k], item rows, -1 where a list is shorter. vectors: float32 [items, d],
    unit rows or zero (a cosine of 0 to all). With s the sum of a list's n vectors, the mean cosine
    is (s . s - the number of unit rows) / (n (n - 1)). Source: Ziegler et al., "Improving
    recommendation lists through topic diversification", WWW 2005; 1 - its intra-list similarity.
    """
    held = lists >= 0
    rows = vectors[np.maximum(lists, 0)] * held[:, :, None]
    total = rows.sum(axis=1)
    cosines = np.einsum("ld,ld->l", total, total) - np.einsum("lkd,lkd->l", rows, rows)
    n = held.sum(axis=1).astype(np.float64)
    mean = cosines / np.maximum(n * (n - 1), 1)
    return np.where(n > 1, 1.0 - mean, 0.0)


BUCKETS = ("head", "mid", "tail")


def popularity_buckets(counts: NDArray[np.float32]) -> NDArray[np.int8]:
    """The index in BUCKETS of each item: each bucket holds a third of all interest in training.

    counts: float32 [items], summed event weights, descending. An item on a border belongs to the
    more popular side. After Abdollahpouri et al., "The unfairness of popularity bias in
    recommendation", RMSE 2019, who cut at 20 % and 80 %.
    """
    total = counts.sum(dtype=np.float64)
    before = np.cumsum(counts, dtype=np.float64) - counts
    spent = len(BUCKETS) * before / max(total, 1e-12)
    bucket: NDArray[np.int8] = np.minimum(spent, len(BUCKETS) - 1).astype(np.int8)
    return bucket


def miscalibration(chosen: Floats, shown: Floats, alpha: float = 0.01) -> float:
    """KL divergence of what lists show from what people chose, in nats; 0 is calibrated.

    chosen, shown: float64 [buckets], shares that sum to 1. Sum of p log(p / q~) over buckets with
    q~ = (1 - alpha) q + alpha p, p chosen, q shown. Source: Steck, "Calibrated recommendations",
    RecSys 2018, eq. 6 and 7.
    """
    smoothed = (1 - alpha) * shown + alpha * chosen
    some = chosen > 0
    return float(np.sum(chosen[some] * np.log(chosen[some] / smoothed[some])))


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with its 95 % confidence interval; ``None`` where it is not defined."""

    value: float | None
    low: float | None
    high: float | None

    def to_dict(self) -> dict[str, float | None]:
        return {"value": self.value, "low": self.low, "high": self.high}

    def negated(self) -> "Estimate":
        """The estimate of minus the value."""
        low, high = (None if x is None else -x for x in (self.high, self.low))
        return Estimate(None if self.value is None else -self.value, low, high)


UNDEFINED = Estimate(None, None, None)


def bootstrap_means(
    values: Floats, clusters: NDArray[np.integer], *, seed: int, draws: int = 1000
) -> Floats:
    """Column means of ``values`` in resamples of whole clusters: float64 [draws, columns].

    values: float64 [samples, columns]. clusters: int [samples], 0..n-1; samples of one cluster (a
    user's, a session's) depend on each other, so they are drawn together. All columns see the same
    resamples: differences between columns are paired. Source: Efron & Tibshirani, "An
    introduction to the bootstrap", 1993, ch. 8; Field & Welsh, "Bootstrapping clustered data",
    JRSS B 2007.
    """
    sizes = np.bincount(clusters).astype(np.float64)
    sums = np.stack([np.bincount(clusters, column) for column in values.T], axis=1)
    totals = np.column_stack([sums, sizes])
    rng = np.random.default_rng(seed)
    means = np.empty((draws, values.shape[1]))
    for k in range(draws):  # one at a time: all at once would be a matrix of draws x clusters
        times = np.bincount(rng.integers(0, len(sizes), len(sizes)), minlength=len(sizes))
        drawn = times @ totals
        means[k] = drawn[:-1] / drawn[-1]
    return means


def mean(values: Floats, draws: Floats) -> Estimate:
    """Mean with the percentile interval of its resamples. values: [samples]. draws: [draws]."""
    return _estimate(float(values.mean()), draws)


def difference(baseline: Floats, better: Floats, draws: Floats) -> Estimate:
    """Mean of ``better`` - ``baseline`` with the percentile interval of its resamples.

    baseline, better: float64 [samples]. draws: float64 [draws, 2], their resampled means.
    """
    return _estimate(float(better.mean() - baseline.mean()), draws[:, 1] - draws[:, 0])


def relative_lift(baseline: Floats, better: Floats, draws: Floats) -> Estimate:
    """Mean of ``better`` / mean of ``baseline`` - 1 with its percentile interval.

    Shapes as in :func:`difference`. Undefined where the baseline, or a resample of it, is 0.
    """
    if not baseline.any():
        return UNDEFINED
    value = float(better.mean() / baseline.mean() - 1.0)
    if not draws[:, 0].all():
        return Estimate(value, None, None)
    return _estimate(value, draws[:, 1] / draws[:, 0] - 1.0)


def _found(hits: Hits, k: int) -> Floats:
    found: Floats = hits[:, :k].sum(axis=1, dtype=np.float64)
    return found


def _estimate(value: float, resamples: Floats) -> Estimate:
    low, high = np.percentile(resamples, [2.5, 97.5]).tolist()
    return Estimate(value, low, high)
