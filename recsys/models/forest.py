"""Forest: gradient-boosted ranking trees, trained by LightGBM, asked by compiled code.

LambdaMART: Burges, "From RankNet to LambdaRank to LambdaMART", MSR-TR-2010-82.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from recsys.config import RankerConfig

if TYPE_CHECKING:
    import lightgbm

Doubles = NDArray[np.float64]
Floats = NDArray[np.float32]
Rows = NDArray[np.int32]
Bits = NDArray[np.unsignedinteger]


@dataclass(frozen=True)
class Forest:
    """The splits of all trees, tree by tree, and their leaves from left to right.

    A candidate's leaf is found without walking: each split that sends it right takes the leaves on
    its left away, and of those that remain the leftmost is the one. Candidates go through a split
    several at a time. Source: Lucchese et al., "QuickScorer", SIGIR 2015.

    starts: int64 [trees + 1] into the splits. feature: int32 [splits]. threshold: float32 [splits],
    a larger value goes right: LightGBM's double rounded down, which no float32 value can tell from
    it. remaining: uint32 or uint64 [splits], a bit for each leaf that remains when a value goes
    right, the leftmost leaf lowest. leaves: float64 [trees, most leaves].
    """

    starts: NDArray[np.int64]
    feature: Rows
    threshold: Floats
    remaining: Bits
    leaves: Doubles


# LightGBM's kZeroThreshold: what is no larger counts as zero.
ZERO = float(np.float32(1e-35))

# Of a power of two in 64 bits, the product with this begins with six bits that only it has.
DE_BRUIJN = np.uint64(0x03F79D71B4CB0A89)
PLACE = np.argsort([(int(DE_BRUIJN) << k) % (1 << 64) >> 58 for k in range(64)])

EMPTY = Forest(
    np.zeros(1, np.int64),
    np.zeros(0, np.int32),
    np.zeros(0, np.float32),
    np.zeros(0, np.uint32),
    np.zeros((0, 1)),
)


def fit(
    table: Floats,
    labels: NDArray[np.int8],
    groups: NDArray[np.int64],
    names: list[str],
    config: RankerConfig,
    seed: int,
    threads: int,
    tick: Callable[[], None] = lambda: None,
) -> tuple[Forest, dict[str, float]]:
    """Train on one row a candidate: float32 [rows, features], labels 0 or more, rows per request.

    Returns the forest and each feature's share of the gain. ``tick`` is called once a tree. All
    candidates of a request stay: negatives sampled by rank would teach that good ranks are bad.
    """
    booster = _booster(table, labels, groups, names, config, seed, threads, tick)
    gain = booster.feature_importance("gain")
    shares = gain / max(gain.sum(), 1e-9)
    return compiled(booster), dict(zip(names, shares.round(5).tolist(), strict=True))


def compiled(booster: "lightgbm.Booster") -> Forest:
    """A LightGBM model as arrays, thresholds and leaves in its own double precision."""
    trees = [_flat(tree["tree_structure"]) for tree in booster.dump_model()["tree_info"]]
    splits = [split for tree, _ in trees for split in tree]
    width = max(len(leaves) for _, leaves in trees)
    bits = np.uint32 if width <= 32 else np.uint64
    everything = int(np.iinfo(bits).max)
    values = np.zeros((len(trees), width))
    for k, (_, leaves) in enumerate(trees):
        values[k, : len(leaves)] = leaves
    return Forest(
        np.cumsum([0, *(len(tree) for tree, _ in trees)]),
        np.array([split.feature for split in splits], dtype=np.int32),
        _rounded_down(np.array([split.threshold for split in splits], dtype=np.float64)),
        np.array([everything ^ split.left for split in splits], dtype=bits),
        values,
    )


class Split(NamedTuple):
    """left: a bit for each leaf on its left."""

    feature: int
    threshold: float
    left: int


def _flat(tree: dict[str, Any]) -> tuple[list[Split], list[float]]:
    """The splits of LightGBM's nested tree and its leaves from left to right."""
    splits: list[Split] = []
    leaves: list[float] = []
    # A split is known when its left side is done: how many leaves there were before, and are now.
    waiting: list[tuple[dict[str, Any], int]] = [(tree, -1)]
    while waiting:
        node, before = waiting.pop()
        if "leaf_value" in node:
            leaves.append(node["leaf_value"])
        elif before < 0:
            if node["decision_type"] != "<=":
                raise ValueError(f"unsupported split {node['decision_type']!r}")
            done = (node, len(leaves))
            waiting += [(node["right_child"], -1), done, (node["left_child"], -1)]
        else:
            left = (1 << len(leaves)) - (1 << before)
            splits.append(Split(node["split_feature"], node["threshold"], left))
    return splits, leaves


def _rounded_down(values: Doubles) -> Floats:
    """The largest float32 that is no larger."""
    near = values.astype(np.float32)
    return np.where(near > values, np.nextafter(near, np.float32(-np.inf)), near)


def scores(forest: Forest, table: Floats) -> Doubles:
    """The sum of the trees for every candidate, float64. table: float32 [features, candidates]."""
    return _scores(
        forest.starts, forest.feature, forest.threshold, forest.remaining, forest.leaves, table
    )


def _booster(
    table: Floats,
    labels: NDArray[np.int8],
    groups: NDArray[np.int64],
    names: list[str],
    config: RankerConfig,
    seed: int,
    threads: int,
    tick: Callable[[], None],
) -> "lightgbm.Booster":
    import lightgbm  # takes half a second, and what serves does without

    data = lightgbm.Dataset(table, labels, group=groups, feature_name=names)
    parameters = {
        "objective": "lambdarank",
        "lambdarank_truncation_level": 30,
        "num_leaves": config.leaves,
        "learning_rate": config.learning_rate,
        "min_data_in_leaf": config.min_leaf,
        "feature_fraction": config.feature_fraction or 1.0,
        "use_missing": False,
        "num_threads": threads,
        "deterministic": True,
        "force_row_wise": True,
        "seed": seed,
        "verbose": -1,
    }
    if (fraction := config.bagging_fraction or 1.0) < 1:
        drawn = {"bagging_fraction": fraction, "bagging_freq": 1, "bagging_by_query": True}
        parameters |= drawn
    return lightgbm.train(parameters, data, config.trees, callbacks=[lambda _: tick()])


@njit(cache=True, nogil=True)
def _scores(
    starts: NDArray[np.int64],
    feature: Rows,
    threshold: Floats,
    remaining: Bits,
    leaves: Doubles,
    table: Floats,
) -> Doubles:
    features, rows = table.shape
    # Whole eights, as many as go through a split at once; the last ones may be of zeros.
    wide = -(-rows // 8) * 8
    values = np.zeros((features, wide), np.float32)
    for column in range(features):
        for row in range(rows):
            if abs(table[column, row]) > ZERO:
                values[column, row] = table[column, row]
    total = np.zeros(rows, np.float64)
    one = remaining.dtype.type(1)
    everything = ~remaining.dtype.type(0)
    left = np.empty(wide, remaining.dtype)
    for tree in range(len(leaves)):
        left[:] = everything
        for split in range(starts[tree], starts[tree + 1]):
            column = values[feature[split]]
            bound, bits = threshold[split], remaining[split]
            for row in range(wide):
                left[row] &= bits if column[row] > bound else everything
        for row in range(rows):
            lowest = np.uint64(left[row] & (everything - left[row] + one))
            total[row] += leaves[tree, PLACE[(lowest * DE_BRUIJN) >> np.uint64(58)]]
    return total
