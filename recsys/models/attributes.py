"""Attributes: where an item that nobody has touched yet stands in the session embedding.

What the shop says of an item (categories, words of the title, properties) becomes terms. A ridge
regression from the terms of the items that a log knows to their vectors tells what each term adds
(a linear map to the factors of a collaborative model: Gantner et al., "Learning Attribute-to-
Feature Mappings for Cold-Start Recommendations", ICDM 2010).
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np
from numpy.typing import NDArray
from scipy import linalg, sparse

from recsys.interactions import IdMap
from recsys.items import Item

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

WORD = re.compile(r"\w+")
MOST_TERMS = 1000  # the most frequent ones; of three times as many the others told nothing more
FEWEST_ITEMS = 2  # that have a term: that of one alone is its name
LONGEST_VALUE = 64  # characters of a property; longer ones are texts rather than kinds
RIDGES = (0.3, 1.0, 3.0, 10.0, 30.0)  # of which that is taken that is best for items left out
USUAL = 3.0  # where there are too few items to leave some out
LEFT_OUT, ENOUGH = 10, 50  # one in so many, of so many at least
TINY = 1e-9


@dataclass(frozen=True)
class Attributes:
    """What terms say of an item's place, and the items that they alone say something of.

    vectors: float32 [terms, d], what each adds to ``mean``, float32 [d]. unseen: float32 [items of
    the catalogue that the log does not know, d], unit vectors, zero where no term is known.
    """

    vectors: Floats
    mean: Floats
    unseen: Floats


NOTHING = np.zeros((0, 0), dtype=np.float32)
EMPTY = Attributes(NOTHING, np.zeros(0, dtype=np.float32), NOTHING)
NO_IDS = IdMap.from_ids([])


@dataclass(frozen=True)
class Fitted:
    """terms, unseen: ids of the rows of the attributes. cosine: the mean of items left out to their
    own vectors, NaN where there were too few."""

    terms: IdMap = NO_IDS
    unseen: IdMap = NO_IDS
    attributes: Attributes = EMPTY
    cosine: float = float("nan")


def terms_of(item: Item) -> list[str]:
    """What tells an item's kind: its categories, the words of its title, its properties."""
    found = [f"category={label}" for label in item.category]
    found += [f"title={word}" for word in WORD.findall((item.title or "").casefold())]
    for name, value in item.properties.items():
        for one in value if isinstance(value, tuple) else (value,):
            if isinstance(one, bool | str) and len(str(one)) <= LONGEST_VALUE:
                found.append(f"properties.{name}={one}")
    return list(dict.fromkeys(found))


def fit(
    vectors: Floats, counts: Floats, known: IdMap, items: Mapping[str, Item], seed: int
) -> Fitted:
    """The map, from what a shop says of items that a log knows, and the items that it does not.

    vectors: float32 [known, d], unit rows, zero for an item never trained. counts: float32 [known],
    events of each: the vector of a rare item says little.
    """
    told = {name: terms_of(item) for name, item in items.items()}
    rows = known.rows([*told])
    often = Counter(chain.from_iterable(told.values()))
    frequent = [term for term, count in often.most_common(MOST_TERMS) if count >= FEWEST_ITEMS]
    terms = IdMap.from_ids(sorted(frequent))
    table = table_of(terms, [*told.values()])
    there = np.flatnonzero((rows >= 0) & (np.diff(table.indptr) > 0))
    there = there[vectors[rows[there]].any(axis=1)] if len(vectors) else there[:0]
    if not len(there):
        return Fitted()
    table, targets = table[there], vectors[rows[there]].astype(np.float64)
    weights = np.log1p(counts[rows[there]].astype(np.float64))
    ridge, cosine = _best_ridge(table, targets, weights, seed)
    ((mean, adds),) = _solutions(table, targets, weights, (ridge,))
    found = Attributes(adds.astype(np.float32), mean.astype(np.float32), NOTHING)
    unseen = [name for name, row in zip(told, rows.tolist(), strict=True) if row < 0]
    own = embedded(terms, found, [told[name] for name in unseen])
    return Fitted(terms, IdMap.from_ids(unseen), replace(found, unseen=own), cosine)


def embedded(terms: IdMap, attributes: Attributes, told: Sequence[Sequence[str]]) -> Floats:
    """Unit vectors of items by their terms, float32 [items, d]; zero without known ones."""
    table = table_of(terms, told)
    found = table @ attributes.vectors.astype(np.float64) + attributes.mean
    found[np.diff(table.indptr) == 0] = 0
    return _unit(np.asarray(found, dtype=np.float64)).astype(np.float32)


def table_of(terms: IdMap, told: Sequence[Sequence[str]]) -> sparse.csr_array:
    """Items by terms, float64: 1 over the root of how many known terms an item has."""
    lengths = np.fromiter(map(len, told), np.int64, len(told))
    columns = terms.rows([*chain.from_iterable(told)])
    items = np.repeat(np.arange(len(told)), lengths)[columns >= 0]
    counts = np.bincount(items, minlength=len(told))
    cells = (1 / np.sqrt(counts[items]), (items, columns[columns >= 0]))
    return sparse.csr_array(cells, shape=(len(told), len(terms)))


def _best_ridge(
    table: sparse.csr_array, targets: Doubles, weights: Doubles, seed: int
) -> tuple[float, float]:
    """The ridge weight that is best for items left out, and their mean cosine with it."""
    out = np.random.default_rng(seed).integers(LEFT_OUT, size=len(targets)) == 0
    if len(targets) < ENOUGH or not out.any():
        return USUAL, float("nan")
    solved = _solutions(table[~out], targets[~out], weights[~out], RIDGES)
    cosines = []
    for mean, adds in solved:
        found = _unit(table[out] @ adds + mean)
        own = (found * _unit(targets[out])).sum(axis=1)
        cosines.append(float(np.average(own, weights=weights[out])))
    best = int(np.argmax(cosines))
    return RIDGES[best], cosines[best]


def _solutions(
    table: sparse.csr_array, targets: Doubles, weights: Doubles, ridges: Sequence[float]
) -> Iterator[tuple[Doubles, Doubles]]:
    """For each ridge weight the mean vector, and what terms add to it."""
    mean = np.average(targets, axis=0, weights=weights)
    weighted = sparse.diags_array(weights) @ table
    products = (table.T @ weighted).toarray()
    right = weighted.T @ (targets - mean)
    for ridge in ridges:
        factor = linalg.cho_factor(products + ridge * np.eye(len(products)))
        yield mean, linalg.cho_solve(factor, right)


def _unit(vectors: Doubles) -> Doubles:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    found: Doubles = vectors / np.maximum(lengths, TINY)
    return found
