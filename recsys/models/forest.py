"""Forest: gradient-boosted ranking trees, trained by LightGBM, asked by compiled code.

LambdaMART: Burges, "From RankNet to LambdaRank to LambdaMART", MSR-TR-2010-82.
"""

from collections.abc import Callable
from dataclasses import dataclass

import lightgbm
import numpy as np
from numba import njit
from numpy.typing import NDArray

from recsys.config import RankerConfig

Doubles = NDArray[np.float64]
Floats = NDArray[np.float32]
Rows = NDArray[np.int32]


@dataclass(frozen=True)
class Forest:
    """All trees' nodes one after another, siblings side by side.

    roots: int32 [trees]. feature: int32 [nodes]. threshold: float32 [nodes], a larger value goes
    right: LightGBM's double rounded down, which no float32 value can tell from it.
    left: int32 [nodes], the left child; the right one follows it. A leaf is its own left child
    behind an infinite threshold, so that a walk needs no question whether it has ended.
    value: float64 [nodes], of leaves.
    """

    roots: Rows
    feature: Rows
    threshold: Floats
    left: Rows
    value: Doubles


# LightGBM's kZeroThreshold: what is no larger counts as zero.
ZERO = float(np.float32(1e-35))

EMPTY = Forest(*(np.zeros(0, dtype=kind) for kind in ("i4", "i4", "f4", "i4", "f8")))


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


def compiled(booster: lightgbm.Booster) -> Forest:
    """A LightGBM model as arrays, thresholds and leaves in its own double precision."""
    roots: list[int] = []
    nodes: list[tuple[int, float, int, float]] = []
    for tree in booster.dump_model()["tree_info"]:
        roots.append(len(nodes))
        nodes.append((0, 0.0, 0, 0.0))
        waiting = [(tree["tree_structure"], roots[-1])]
        while waiting:
            node, at = waiting.pop()
            if "leaf_value" in node:
                nodes[at] = (0, np.inf, at, node["leaf_value"])
                continue
            if node["decision_type"] != "<=":
                raise ValueError(f"unsupported split {node['decision_type']!r}")
            left = len(nodes)
            nodes[at] = (node["split_feature"], node["threshold"], left, 0.0)
            nodes += [(0, 0.0, 0, 0.0)] * 2
            waiting += [(node["left_child"], left), (node["right_child"], left + 1)]
    feature, threshold, children, value = zip(*nodes, strict=True)
    return Forest(
        np.array(roots, dtype=np.int32),
        np.array(feature, dtype=np.int32),
        _rounded_down(np.array(threshold)),
        np.array(children, dtype=np.int32),
        np.array(value, dtype=np.float64),
    )


def _rounded_down(values: Doubles) -> Floats:
    """The largest float32 that is no larger."""
    near = values.astype(np.float32)
    return np.where(near > values, np.nextafter(near, np.float32(-np.inf)), near)


def scores(forest: Forest, table: Floats) -> Doubles:
    """The sum of the trees for every candidate, float64. table: float32 [features, candidates]."""
    return _scores(forest.roots, forest.feature, forest.threshold, forest.left, forest.value, table)


def _booster(
    table: Floats,
    labels: NDArray[np.int8],
    groups: NDArray[np.int64],
    names: list[str],
    config: RankerConfig,
    seed: int,
    threads: int,
    tick: Callable[[], None],
) -> lightgbm.Booster:
    data = lightgbm.Dataset(table, labels, group=groups, feature_name=names)
    parameters = {
        "objective": "lambdarank",
        "lambdarank_truncation_level": 30,
        "num_leaves": config.leaves,
        "learning_rate": config.learning_rate,
        "min_data_in_leaf": config.min_leaf,
        "use_missing": False,
        "num_threads": threads,
        "deterministic": True,
        "force_row_wise": True,
        "seed": seed,
        "verbose": -1,
    }
    return lightgbm.train(parameters, data, config.trees, callbacks=[lambda _: tick()])


@njit(cache=True)
def _scores(
    roots: Rows,
    feature: Rows,
    threshold: Floats,
    left: Rows,
    value: Doubles,
    table: Floats,
) -> Doubles:
    features, rows = table.shape
    # Rows walk four at a time, so that one waits for memory while the others move on; the last
    # few walk with rows of zeros.
    values = np.zeros((-(-rows // 4) * 4, features), np.float32)
    for column in range(features):
        for row in range(rows):
            if abs(table[column, row]) > ZERO:
                values[row, column] = table[column, row]
    total = np.zeros(len(values), np.float64)
    for root in roots:
        for r in range(0, len(values), 4):
            a, b, c, d = root, root, root, root
            while True:
                next_a = left[a] + (values[r, feature[a]] > threshold[a])
                next_b = left[b] + (values[r + 1, feature[b]] > threshold[b])
                next_c = left[c] + (values[r + 2, feature[c]] > threshold[c])
                next_d = left[d] + (values[r + 3, feature[d]] > threshold[d])
                if next_a == a and next_b == b and next_c == c and next_d == d:
                    break
                a, b, c, d = next_a, next_b, next_c, next_d
            total[r] += value[a]
            total[r + 1] += value[b]
            total[r + 2] += value[c]
            total[r + 3] += value[d]
    return total[:rows]
