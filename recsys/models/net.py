"""Net: a small neural network over the table that the forest learned from; their scores are added.

Trees cut one feature at a time and in steps, a net is smooth in all of them at once: it errs with
other candidates, so that the sum ranks better than either. It learns by softmax over the candidates
of a request (the top-one probability of Cao et al., "Learning to Rank: From Pairwise Approach to
Listwise Approach", ICML 2007), with Adam (Kingma and Ba, ICLR 2015).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numba import njit
from numpy.typing import NDArray

from recsys.config import RankerConfig

Floats = NDArray[np.float32]
Longs = NDArray[np.int64]

OUTER = 16  # units of the second layer
BATCH = 128  # requests a step
LEARNING_RATE = 0.002  # falls linearly to 0
LEAK = np.float32(0.01)  # what a unit lets through of what is below 0
# Of few requests: more epochs, as long as they take no more steps than this.
MOST_EPOCHS, FEW_STEPS = 40, 2_400
LIMIT = np.float32(5)  # spreads beyond which a value tells no more
SAMPLE = 200_000  # rows that tell how the values of a feature lie

ONE, NOTHING = np.float32(1), np.float32(0)
# Of float32 numbers: the bits of 1, and by how much the exponent grows with each of its bits.
BITS_OF_ONE, PER_BIT = np.int32(0x3F800000), np.float32(2.0**-23)


@dataclass(frozen=True)
class Net:
    """Two layers of leaky units between features and score.

    features: int32 [i], rows of the table that are looked at. unit, centre, spread: float32 [i],
    how a value is read, see `_read`. inner: float32 [i + 1, h] and outer: float32 [h + 1, o],
    weights, and the biases in the last row. last: float32 [o].
    """

    features: NDArray[np.int32]
    unit: Floats
    centre: Floats
    spread: Floats
    inner: Floats
    outer: Floats
    last: Floats


def _nothing(*shape: int) -> Floats:
    return np.zeros(shape, dtype=np.float32)


EMPTY = Net(
    np.zeros(0, dtype=np.int32),
    *(_nothing(0), _nothing(0), _nothing(0)),
    *(_nothing(1, 0), _nothing(1, 0), _nothing(0)),
)


def fit(
    table: Floats,
    labels: NDArray[np.int8],
    groups: Longs,
    config: RankerConfig,
    seed: int,
    tick: Callable[[], None] = lambda: None,
) -> Net:
    """Train on one row a candidate: float32 [rows, features], labels 0 or more, rows per request.

    ``tick`` is called each step. Features of one value are left out; EMPTY where all are.
    """
    rng = np.random.default_rng(seed)
    start = _start(table, config.net_units, rng)
    if not len(start.features):
        return EMPTY
    learner = _Learner(start)
    count = len(groups)
    ends = np.cumsum(groups)
    whole, step = steps(config, count), 0
    for _ in range(epochs(config, count)):
        order = rng.permutation(count)
        for first in range(0, count, BATCH):
            requests = order[first : first + BATCH]
            sizes = groups[requests]
            starts = np.cumsum(sizes) - sizes
            rows = np.repeat(ends[requests] - sizes - starts, sizes) + np.arange(sizes.sum())
            rate = LEARNING_RATE * (1 - step / whole)
            learner.step(table[rows], labels[rows], sizes, starts, rate)
            step += 1
            tick()
    return learner.net(config.net_weight)


def epochs(config: RankerConfig, requests: int) -> int:
    """How often so many requests are gone through."""
    return max(config.net_epochs, min(MOST_EPOCHS, FEW_STEPS * BATCH // max(1, requests)))


def steps(config: RankerConfig, requests: int) -> int:
    """Steps that training on so many requests takes."""
    return epochs(config, requests) * -(-requests // BATCH)


def scores(net: Net, table: Floats) -> Floats:
    """What the net says of every candidate, float32 [n]. table: float32 [features, n]."""
    return _scores(
        table,
        net.features,
        net.unit,
        net.centre,
        net.spread,
        net.inner,
        net.outer,
        net.last,
    )


def _start(table: Floats, units: int, rng: np.random.Generator) -> Net:
    """How features are read, by a sample of the rows, and weights by chance; but 0 in the last
    layer, so that a net that has learned little says little."""
    sample = table[rng.integers(0, len(table), SAMPLE)] if len(table) > SAMPLE else table
    sample = np.ascontiguousarray(sample.T)
    every = np.arange(len(sample), dtype=np.int32)
    unit = np.array([_unit(row) for row in sample], dtype=np.float32)
    as_they_are = np.zeros(len(every), dtype=np.float32), np.ones(len(every), dtype=np.float32)
    values = _read(sample, every, unit, *as_they_are, np.float32(np.inf))[:-1]
    centre = values.mean(axis=1, dtype=np.float64).astype(np.float32)
    spread = values.std(axis=1, dtype=np.float64).astype(np.float32)
    # Of values that differ less than these numbers can tell there is no spread either.
    features = np.flatnonzero(spread > 1e-6 * np.maximum(ONE, np.abs(centre))).astype(np.int32)
    count = len(features)
    return Net(
        features,
        unit[features],
        centre[features],
        spread[features],
        _drawn(count, units, rng),
        _drawn(units, OUTER, rng),
        np.zeros(OUTER, dtype=np.float32),
    )


def _unit(values: Floats) -> float:
    """What counts as little: a tenth of the values that are not 0 are smaller."""
    sizes = np.abs(values[np.isfinite(values) & (values != 0)])
    return float(np.quantile(sizes, 0.1)) if len(sizes) else 1.0


def _drawn(inputs: int, units: int, rng: np.random.Generator) -> Floats:
    """Weights by chance, and no bias (He et al., "Delving Deep into Rectifiers", ICCV 2015)."""
    weights = np.zeros((inputs + 1, units), dtype=np.float32)
    weights[:-1] = rng.normal(size=(inputs, units)) * np.sqrt(2 / max(1, inputs))
    return weights


class _Learner:
    """A net's weights and their Adam state."""

    def __init__(self, start: Net) -> None:
        self.start = start
        self.weights = [start.inner.copy(), start.outer.copy(), start.last.copy()]
        self.means = [np.zeros_like(weights) for weights in self.weights]
        self.squares = [np.zeros_like(weights) for weights in self.weights]
        self.steps = 0

    def net(self, weight: float) -> Net:
        inner, outer, last = self.weights
        return replace(self.start, inner=inner, outer=outer, last=last * np.float32(weight))

    def step(
        self, table: Floats, labels: NDArray[np.int8], sizes: Longs, starts: Longs, rate: float
    ) -> None:
        """One step of gradient descent on the candidates of some requests, as in `fit`."""
        at, (inner, outer, last) = self.start, self.weights
        values = _read(table.T, at.features, at.unit, at.centre, at.spread, LIMIT)
        first = inner.T @ values
        hidden = np.concatenate([_leaky(first), values[-1:]])
        second = outer.T @ hidden
        top = _leaky(second)
        wrong = _softmax(last @ top, sizes, starts) - _shares(labels, sizes, starts)
        wrong /= np.float32(len(sizes))
        back = last[:, None] * wrong * _slope(second)
        further = (outer[:-1] @ back) * _slope(first)
        self._adam([values @ further.T, hidden @ back.T, top @ wrong], rate)

    def _adam(self, gradients: list[Floats], rate: float) -> None:
        self.steps += 1
        of_means, of_squares = 1 - 0.9**self.steps, 1 - 0.999**self.steps
        for weights, gradient, mean, square in zip(
            self.weights, gradients, self.means, self.squares, strict=True
        ):
            mean += np.float32(0.1) * (gradient - mean)
            square += np.float32(0.001) * (gradient**2 - square)
            size = np.sqrt(square / np.float32(of_squares)) + np.float32(1e-8)
            weights -= np.float32(rate / of_means) * mean / size


def _leaky(values: Floats) -> Floats:
    out: Floats = np.maximum(values, LEAK * values)
    return out


def _slope(values: Floats) -> Floats:
    out: Floats = np.where(values > 0, ONE, LEAK)
    return out


def _softmax(scores: Floats, sizes: Longs, starts: Longs) -> Floats:
    """Of the candidates of each request."""
    chances: Floats = np.exp(scores - np.repeat(np.maximum.reduceat(scores, starts), sizes))
    chances /= np.repeat(np.add.reduceat(chances, starts), sizes)
    return chances


def _shares(labels: NDArray[np.int8], sizes: Longs, starts: Longs) -> Floats:
    """What is wanted of each request, in equal parts."""
    wanted = labels.astype(np.float32)
    wanted /= np.repeat(np.maximum(np.add.reduceat(wanted, starts), ONE), sizes)
    return wanted


@njit(cache=True, nogil=True, error_model="numpy")
def _read(
    table: Floats,
    features: NDArray[np.int32],
    unit: Floats,
    centre: Floats,
    spread: Floats,
    limit: np.float32,
) -> Floats:
    """Features as inputs, float32 [i + 1, n], a row of ones last: the logarithm of one and as many
    units as there are, with its sign, less the centre, in spreads. NaN counts as 0, as to trees.

    The logarithm is that of Mitchell, "Computer Multiplication and Division Using Binary
    Logarithms", IRE Transactions 1962: straight between powers of two, whose exponent and mantissa
    are the bits of a float32 as they stand.
    """
    count, rows = len(features), table.shape[1]
    values = np.empty((count + 1, rows), np.float32)
    values[count] = ONE
    size = np.empty(rows, np.float32)
    bits = size.view(np.int32)
    for k in range(count):
        of, per_unit, per_spread = table[features[k]], ONE / unit[k], ONE / spread[k]
        into = values[k]
        for row in range(rows):
            far = np.abs(of[row]) * per_unit
            size[row] = ONE + (far if far > NOTHING else NOTHING)
        for row in range(rows):
            value = np.float32(bits[row] - BITS_OF_ONE) * PER_BIT
            value = (value if of[row] > NOTHING else -value) - centre[k]
            into[row] = min(max(value * per_spread, -limit), limit)
    return values


@njit(cache=True, nogil=True, error_model="numpy")
def _scores(
    table: Floats,
    features: NDArray[np.int32],
    unit: Floats,
    centre: Floats,
    spread: Floats,
    inner: Floats,
    outer: Floats,
    last: Floats,
) -> Floats:
    values = _read(table, features, unit, centre, spread, LIMIT)
    hidden = _layer(values, inner)
    top = _layer(hidden, outer)
    total = np.zeros(table.shape[1], np.float32)
    for k in range(len(last)):
        for row in range(len(total)):
            total[row] += last[k] * top[k, row]
    return total


@njit(cache=True, nogil=True)
def _layer(values: Floats, weights: Floats) -> Floats:
    """Leaky units over the values, and a row of ones. Each candidate is summed by itself and in
    order, so that its score does not depend on who stands beside it."""
    inputs, units = weights.shape
    rows = values.shape[1]
    out = np.zeros((units + 1, rows), np.float32)
    out[units] = ONE
    fours = inputs // 4 * 4
    for j in range(units):
        of = out[j]
        # Four inputs each time the sums are fetched and stored: less than half the time.
        for k in range(0, fours, 4):
            a, b, c, d = weights[k, j], weights[k + 1, j], weights[k + 2, j], weights[k + 3, j]
            p, q, r, s = values[k], values[k + 1], values[k + 2], values[k + 3]
            for row in range(rows):
                of[row] = of[row] + a * p[row] + b * q[row] + c * r[row] + d * s[row]
        for k in range(fours, inputs):
            weight, value = weights[k, j], values[k]
            for row in range(rows):
                of[row] += weight * value[row]
        for row in range(rows):
            of[row] = max(of[row], LEAK * of[row])
    return out
