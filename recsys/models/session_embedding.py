"""Session embedding: a linear model that predicts the next item from the last ones.

A session is the weighted sum of its last items' unit vectors, newest first, with one learned weight
per session length and place; the next item is the one whose unit vector has the highest cosine to
it. Input and output share one item table. Trained by softmax over the true item and negatives
shared by the batch, drawn by popularity to a power and corrected for it (log-Q: Bengio and
Senécal, IEEE TNN 2008), with Adagrad.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from recsys.config import SessionEmbeddingConfig
from recsys.interactions import Sequences

Rows = NDArray[np.int32]
Floats = NDArray[np.float32]
Number = float | np.float32

TINY = np.float32(1e-9)

# Of a model that is trained further. A bundle does not keep its Adagrad state, which holds what it
# has learned: each of an item's events counts for a square of so much. With a tenth of that for
# known items, what is new is learned at the cost of what was known; with ten times, hardly at all.
RESUMED_EPOCHS = 3
KNOWN_SQUARES, NEW_SQUARES = 10.0, 0.1

# error_model="numpy" below: a check of every division for 0, which none can meet, would keep the
# loops from working on several numbers at a time.


@dataclass(frozen=True)
class SessionEmbedding:
    """item_vectors: float32 [items, d], unit rows; zero for an item never trained.

    place_weights: float32 [L, L]; row l - 1 weighs the places of a session of l items, newest
    first.
    """

    item_vectors: Floats
    place_weights: Floats


def fit(
    sequences: Sequences,
    items: int,
    config: SessionEmbeddingConfig,
    seed: int,
    tick: Callable[[], None] = lambda: None,
) -> SessionEmbedding:
    """Train on every event that follows another in its session; ``tick`` is called each epoch."""
    examples = _Examples.of(sequences, config)
    count = len(examples.ends)
    if not count:
        empty = np.zeros((0, config.embedding_size), dtype=np.float32)
        return SessionEmbedding(empty, np.zeros((0, 0), dtype=np.float32))
    rng = np.random.default_rng(seed)
    table = _Table(items, config, rng)
    steps = config.epochs * -(-count // config.batch)
    epochs = (rng.permutation(count) for _ in range(config.epochs))
    _descend(table, examples, epochs, steps, config, rng, tick)
    return _learned(table, examples)


def resume(
    model: SessionEmbedding,
    known: Rows,
    sequences: Sequences,
    fresh: int,
    config: SessionEmbeddingConfig,
    seed: int,
    tick: Callable[[], None] = lambda: None,
) -> SessionEmbedding:
    """Train a model further, on what is new and as many old examples, drawn anew each epoch.

    known: int32 [items], the row that each item has in the model, -1 for none. fresh: the first of
    the sequences that is new. An item without a vector begins amid the items it was met with. The
    weights of places stay: what is new is too little to say more of them than all before it.
    """
    examples = _Examples.of(sequences, config)
    rng = np.random.default_rng(seed)
    table = _Table(len(known), config, rng)
    there = _begin(table, model, known, sequences)
    ends = examples.ends
    # Events may have come late: of an old session, and yet an item's first.
    is_new = (ends >= sequences.indptr[fresh]) | ~there[sequences.items[ends]]
    is_new |= ~there[sequences.items[ends - 1]]
    new, old = np.flatnonzero(is_new), np.flatnonzero(~is_new)
    drawn = min(len(new), len(old))
    epochs = (
        rng.permutation(np.concatenate([new, rng.choice(old, drawn, replace=False)]))
        for _ in range(RESUMED_EPOCHS)
    )
    steps = RESUMED_EPOCHS * -(-(len(new) + drawn) // config.batch)
    _descend(table, examples, epochs, steps, config, rng, tick)
    return _learned(table, examples)


def _begin(
    table: "_Table", model: SessionEmbedding, known: Rows, sequences: Sequences
) -> NDArray[np.bool_]:
    """Put a model's vectors into a table, and others near them; returns which items it has."""
    there = known >= 0
    there[there] = model.item_vectors[known[there]].any(axis=1)
    table.vectors[there] = model.item_vectors[known[there]]
    table.place_weights[:], table.place_squares[:] = model.place_weights, np.inf
    items = sequences.items
    follows = np.ones(len(items), dtype=np.bool_)
    follows[sequences.indptr[:-1]] = False
    after = np.flatnonzero(follows)
    beside = np.zeros_like(table.vectors)
    for one, other in ((items[after], items[after - 1]), (items[after - 1], items[after])):
        met = ~there[one] & there[other]
        np.add.at(beside, one[met], table.vectors[other[met]])
    placed = np.flatnonzero(beside.any(axis=1)).astype(np.int32)
    table.vectors[placed] = _unit(beside, placed)
    events = np.bincount(items, minlength=len(known)).astype(np.float32)
    table.squares += (events * np.where(there, KNOWN_SQUARES, NEW_SQUARES))[:, None]
    return there


def _descend(
    table: "_Table",
    examples: "_Examples",
    epochs: Iterable[NDArray[np.int64]],
    steps: int,
    config: SessionEmbeddingConfig,
    rng: np.random.Generator,
    tick: Callable[[], None],
) -> None:
    """Go through the examples of each epoch in batches, ``steps`` in all."""
    sequence, items = examples.items, len(table.vectors)
    degree = np.bincount(sequence, minlength=items).astype(np.float64)
    chance = degree**config.negative_power
    chance /= chance.sum()
    cumulative = np.cumsum(chance)
    expected = np.log(np.maximum(chance * config.negatives, 1e-9)).astype(np.float32)
    step = 0
    for order in epochs:
        for first in range(0, len(order), config.batch):
            batch = order[first : first + config.batch]
            before, ends = examples.lengths[batch], examples.ends[batch]
            recent, targets = _gather(sequence, ends, before, config.last_items)
            drawn = np.searchsorted(cumulative, rng.random(config.negatives))
            negatives = np.minimum(drawn, items - 1).astype(np.int32)
            weights, rate = examples.weights[batch], config.learning_rate * (1 - step / steps)
            table.step(recent, before, targets, negatives, expected, weights, rate)
            step += 1
        tick()


def _learned(table: "_Table", examples: "_Examples") -> SessionEmbedding:
    """What came of it: nothing for items that are in no example."""
    items = len(table.vectors)
    vectors = _unit(table.vectors, np.arange(items, dtype=np.int32))
    trained = np.zeros(items, dtype=np.bool_)
    trained[examples.items[examples.ends]] = True
    trained[examples.items[examples.ends - 1]] = True
    vectors[~trained] = 0
    return SessionEmbedding(vectors, table.place_weights)


def session_vector(model: SessionEmbedding, sequence: Rows) -> Floats:
    """The unit vector of a sequence (rows, newest first), float32 [d]; zero for an empty one."""
    recent = sequence[: len(model.place_weights)]
    if not len(recent):
        return np.zeros(model.item_vectors.shape[1], dtype=np.float32)
    vector: Floats = _sum(model.item_vectors, model.place_weights[len(recent) - 1], recent)
    return vector


@njit(cache=True, fastmath=True, nogil=True, error_model="numpy")
def _sum(vectors: Floats, weights: Floats, rows: Rows) -> Floats:
    """The weighted sum of the given rows, scaled to length 1."""
    total = np.zeros(vectors.shape[1], np.float32)
    for place in range(len(rows)):
        for j in range(len(total)):
            total[j] += weights[place] * vectors[rows[place], j]
    square = np.float32(0)
    for j in range(len(total)):
        square += total[j] ** 2
    unit: Floats = total / (np.sqrt(square) + TINY)
    return unit


@dataclass(frozen=True)
class _Examples:
    """items: int32, of all sequences. ends: int64 [n], where each target stands in them. lengths:
    int32 [n], how many items before it count. weights: float32 [n], mean 1."""

    items: Rows
    ends: NDArray[np.int64]
    lengths: Rows
    weights: Floats

    @classmethod
    def of(cls, sequences: Sequences, config: SessionEmbeddingConfig) -> "_Examples":
        lengths = np.diff(sequences.indptr)
        session = np.repeat(np.arange(len(lengths)), lengths)
        place = np.arange(len(sequences.items)) - sequences.indptr[session]
        ends = np.flatnonzero(place > 0)
        weights = np.exp(config.age_decay * (session[ends] / len(lengths) - 1))
        return cls(
            sequences.items,
            ends,
            np.minimum(place[ends], config.last_items).astype(np.int32),
            (weights / max(weights.sum(), 1e-9) * len(ends)).astype(np.float32),
        )


class _Table:
    """The parameters and their Adagrad state."""

    def __init__(
        self, items: int, config: SessionEmbeddingConfig, rng: np.random.Generator
    ) -> None:
        size, places = config.embedding_size, config.last_items
        self.scale = config.scale
        self.vectors = (rng.normal(size=(items, size)) / np.sqrt(size)).astype(np.float32)
        self.squares = np.full((items, size), 1e-6, dtype=np.float32)
        self.gradient = np.zeros((items, size), dtype=np.float32)
        self.touched = np.zeros(items, dtype=np.bool_)
        self.place_weights = np.zeros((places, places), dtype=np.float32)
        for length in range(1, places + 1):
            self.place_weights[length - 1, :length] = 0.7 ** np.arange(length)
        self.place_squares = np.full((places, places), 1e-6, dtype=np.float32)

    def step(
        self,
        recent: Rows,
        lengths: Rows,
        targets: Rows,
        negatives: Rows,
        expected: Floats,
        weights: Floats,
        rate: float,
    ) -> None:
        """One step of gradient descent on a batch."""
        hidden, norms = _encode(self.vectors, self.place_weights, recent, lengths)
        wrong = _unit(self.vectors, negatives)
        right = _unit(self.vectors, targets)
        logits = hidden @ wrong.T
        pull = _softmax_gradient(
            logits,
            np.einsum("ij,ij->i", hidden, right),
            negatives,
            targets,
            expected,
            weights,
            self.scale,
        )
        negative_gradient = (logits.T @ hidden).astype(np.float32, copy=False)
        place_gradient: Floats = np.zeros_like(self.place_weights)
        _backward(
            self.vectors,
            self.place_weights,
            recent,
            lengths,
            hidden,
            norms,
            logits @ wrong + pull[:, None] * right,
            pull,
            targets,
            negatives,
            negative_gradient,
            self.gradient,
            self.touched,
            place_gradient,
        )
        _adagrad(self.vectors, self.squares, self.gradient, self.touched, rate)
        self.place_squares += place_gradient**2
        # A tenth of the rate: few weights that every example moves.
        self.place_weights -= (
            0.1 * rate * place_gradient / np.sqrt(self.place_squares + 1e-8)
        ).astype(np.float32)


@njit(cache=True, nogil=True)
def _gather(items: Rows, ends: NDArray[np.int64], lengths: Rows, places: int) -> tuple[Rows, Rows]:
    """The items before each target, newest first, and the targets."""
    recent = np.zeros((len(ends), places), np.int32)
    targets = np.empty(len(ends), np.int32)
    for b in range(len(ends)):
        targets[b] = items[ends[b]]
        for place in range(lengths[b]):
            recent[b, place] = items[ends[b] - 1 - place]
    return recent, targets


@njit(cache=True, fastmath=True, nogil=True, error_model="numpy")
def _unit(vectors: Floats, rows: Rows) -> Floats:
    """The given rows scaled to length 1."""
    size = vectors.shape[1]
    unit = np.empty((len(rows), size), np.float32)
    for k in range(len(rows)):
        square = np.float32(0)
        for j in range(size):
            square += vectors[rows[k], j] ** 2
        factor = np.float32(1) / (np.sqrt(square) + TINY)
        for j in range(size):
            unit[k, j] = factor * vectors[rows[k], j]
    return unit


@njit(cache=True, fastmath=True, nogil=True, error_model="numpy")
def _encode(
    vectors: Floats, place_weights: Floats, recent: Rows, lengths: Rows
) -> tuple[Floats, Floats]:
    """Unit session vectors [batch, d], and the lengths they had."""
    size = vectors.shape[1]
    hidden = np.zeros((len(recent), size), np.float32)
    norms = np.empty(len(recent), np.float32)
    for b in range(len(recent)):
        for place in range(lengths[b]):
            row = recent[b, place]
            square = np.float32(0)
            for j in range(size):
                square += vectors[row, j] ** 2
            factor = place_weights[lengths[b] - 1, place] / (np.sqrt(square) + TINY)
            for j in range(size):
                hidden[b, j] += factor * vectors[row, j]
        square = np.float32(0)
        for j in range(size):
            square += hidden[b, j] ** 2
        norms[b] = np.sqrt(square) + TINY
        for j in range(size):
            hidden[b, j] /= norms[b]
    return hidden, norms


def _softmax_gradient(
    logits: Floats,
    right: Floats,
    negatives: Rows,
    targets: Rows,
    expected: Floats,
    weights: Floats,
    scale: Number,
) -> Floats:
    """Turn cosines [batch, negatives] into the loss's gradient, in place; returns the targets'."""
    own = np.float32(scale) * right - expected[targets]
    _shift(logits, own, negatives, targets, expected, scale)
    # numpy's exponentials are several at a time, the compiled loop's are not.
    np.exp(logits, out=logits)
    np.exp(own, out=own)
    total = logits.sum(axis=1) + own
    weighted = np.float32(scale) * weights
    logits *= (weighted / total)[:, None]
    pull: Floats = weighted * (own / total - np.float32(1))
    return pull


@njit(cache=True, fastmath=True, nogil=True)
def _shift(
    logits: Floats,
    own: Floats,
    negatives: Rows,
    targets: Rows,
    expected: Floats,
    scale: Number,
) -> None:
    """Cosines to corrected logits less the highest of each example, in place; own likewise."""
    scale = np.float32(scale)
    for b in range(len(own)):
        highest = own[b]
        for n in range(len(negatives)):
            logit = scale * logits[b, n] - expected[negatives[n]]
            if negatives[n] == targets[b]:
                logit = np.float32(-1e9)
            logits[b, n] = logit
            highest = max(highest, logit)
        own[b] -= highest
        for n in range(len(negatives)):
            logits[b, n] -= highest


@njit(cache=True, fastmath=True, nogil=True)
def _backward(
    vectors: Floats,
    place_weights: Floats,
    recent: Rows,
    lengths: Rows,
    hidden: Floats,
    norms: Floats,
    hidden_gradient: Floats,
    pull: Floats,
    targets: Rows,
    negatives: Rows,
    negative_gradient: Floats,
    gradient: Floats,
    touched: NDArray[np.bool_],
    place_gradient: Floats,
) -> None:
    """Add the gradient with respect to unit item vectors and to the place weights."""
    size = vectors.shape[1]
    for n in range(len(negatives)):
        touched[negatives[n]] = True
        for j in range(size):
            gradient[negatives[n], j] += negative_gradient[n, j]
    back = np.empty(size, np.float32)
    for b in range(len(targets)):
        touched[targets[b]] = True
        along = np.float32(0)
        for j in range(size):
            gradient[targets[b], j] += pull[b] * hidden[b, j]
            along += hidden_gradient[b, j] * hidden[b, j]
        # Through the normalisation of the session vector.
        for j in range(size):
            back[j] = (hidden_gradient[b, j] - along * hidden[b, j]) / norms[b]
        for place in range(lengths[b]):
            row = recent[b, place]
            touched[row] = True
            weight = place_weights[lengths[b] - 1, place]
            dot, square = np.float32(0), np.float32(0)
            for j in range(size):
                gradient[row, j] += weight * back[j]
                dot += back[j] * vectors[row, j]
                square += vectors[row, j] ** 2
            place_gradient[lengths[b] - 1, place] += dot / (np.sqrt(square) + TINY)


@njit(cache=True, fastmath=True, nogil=True, error_model="numpy")
def _adagrad(
    vectors: Floats,
    squares: Floats,
    gradient: Floats,
    touched: NDArray[np.bool_],
    rate: Number,
) -> None:
    """Update the touched rows, through their normalisation, and clear their gradient."""
    size = vectors.shape[1]
    rate = np.float32(rate)
    for row in range(len(vectors)):
        if not touched[row]:
            continue
        touched[row] = False
        square, along = np.float32(0), np.float32(0)
        for j in range(size):
            square += vectors[row, j] ** 2
            along += gradient[row, j] * vectors[row, j]
        factor = np.float32(1) / (np.sqrt(square) + TINY)
        along *= factor * factor
        for j in range(size):
            slope = factor * (gradient[row, j] - along * vectors[row, j])
            squares[row, j] += slope * slope
            vectors[row, j] -= rate * slope / np.sqrt(squares[row, j] + np.float32(1e-8))
            gradient[row, j] = 0
