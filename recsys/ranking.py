"""Ranking: one table of named features over candidates; a forest and a net that learned from it."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numba import njit
from numpy.typing import NDArray

from recsys.aggregates import ranking_by
from recsys.baskets import BASKET
from recsys.bundle import Bundle
from recsys.columns import COLUMN
from recsys.config import Aggregate
from recsys.features import FEATURES, Context, Feature, live_features
from recsys.models import forest, net
from recsys.newcomers import SOURCES as BESIDE
from recsys.newcomers import Newcomers, Shows, newcomers
from recsys.retrieval import (
    Candidates,
    Mask,
    Parts,
    Profile,
    Ranked,
    best_search,
    has_taste,
    is_heard_of,
    retrieve,
)

Rows = NDArray[np.int32]
Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Places = NDArray[np.intp]

TINY = np.float32(1e-9)


def feature_table(bundle: Bundle, who: Profile, candidates: Candidates) -> Floats:
    """The features a bundle's ranker knows, float32 [features, candidates], in its order."""
    names = tuple(bundle.facts.features)
    context = Context.of(bundle, who, candidates)
    plan = _plan(names, candidates.sources, ranking_by(bundle.config))
    table = _filled(
        len(names),
        context.columns,
        context.basket,
        candidates.scores,
        candidates.ranks,
        plan.columns,
        plan.basket,
        plan.scores,
        plan.ranks,
    )
    for k, feature in plan.others:
        table[k] = feature(context)
    return table


@dataclass(frozen=True, slots=True)
class Plan:
    """How a table is filled: at once from blocks, and the other features one by one.

    columns, basket, scores, ranks: intp, where each row of a block goes in the table, -1 for
    nowhere; the blocks are the columns and the basket of the context, and what the asked sources
    say.
    """

    columns: Places
    basket: Places
    scores: Places
    ranks: Places
    others: tuple[tuple[int, Feature], ...]


@lru_cache
def _plan(
    names: tuple[str, ...], sources: tuple[str, ...], declared: tuple[Aggregate, ...]
) -> Plan:
    blocks = (
        tuple(COLUMN),
        tuple(BASKET),
        tuple(f"{source}_score" for source in sources),
        tuple(f"{source}_rank" for source in sources),
    )
    place = {name: k for k, name in enumerate(names)}
    columns, basket, scores, ranks = (
        np.array([place.get(name, -1) for name in block], dtype=np.intp) for block in blocks
    )
    filled = {name for block in blocks for name in block}
    known = {**FEATURES, **live_features(declared)}
    others = tuple((k, known[name]) for name, k in place.items() if name not in filled)
    return Plan(columns, basket, scores, ranks, others)


@njit(cache=True, nogil=True)
def _filled(
    features: int,
    columns: Floats,
    basket: Floats,
    scores: Floats,
    ranks: Floats,
    columns_into: Places,
    basket_into: Places,
    scores_into: Places,
    ranks_into: Places,
) -> Floats:
    """A table of so many rows with those of the blocks in their places; the others are not set."""
    table = np.empty((features, columns.shape[1]), np.float32)
    _place(table, columns, columns_into)
    _place(table, basket, basket_into)
    _place(table, scores, scores_into)
    _place(table, ranks, ranks_into)
    return table


@njit(cache=True, nogil=True)
def _place(table: Floats, block: Floats, into: Places) -> None:
    """Rows of a block into those of a table; -1 for nowhere."""
    for row in range(len(block)):
        if into[row] >= 0:
            table[into[row]] = block[row]


def uses_ranker(bundle: Bundle, who: Profile) -> bool:
    """The ranker ranks when there is one and it learned from visitors of whom as much is known."""
    if not len(bundle.forest.leaves):
        return False
    if has_taste(who) or (len(who.past[0]) and bundle.facts.openings):
        return True
    return is_heard_of(bundle, who)


def rank(
    bundle: Bundle,
    who: Profile,
    n: int,
    out: Rows,
    sources: tuple[str, ...] = (),
    allowed: Mask | None = None,
    shows: Shows | None = None,
) -> Ranked:
    """The candidates of the sources (empty: all), ranked by forest and net.

    n, out: that many candidates are not among the rows that may not be shown, ascending. allowed:
    only these are ranked, see `retrieve`. Features are made of all candidates, so that an item has
    the score that it has without. shows: which items beyond the bundle are, None for all.
    """
    candidates = retrieve(bundle, who, n, out, sources, allowed)
    table = feature_table(bundle, who, candidates)
    beside = [name for name in BESIDE if not sources or name in sources]
    found = newcomers(bundle, who, candidates, table, shows, beside) if beside else None
    trees = forest.scores(bundle.forest, table)
    scores = trees + net.scores(bundle.net, table)
    ranked = Ranked(
        candidates.rows,
        scores,
        Parts(candidates.sources, candidates.scores),
        Parts(tuple(bundle.facts.features), table),
    )
    if allowed is not None:
        ranked = _allowed(ranked, allowed, best_search(bundle, who))
    if found:
        new = forest.scores(bundle.forest, found.table)
        if len(bundle.net.features):
            new = _beside(new, trees, scores)
        ranked = _joined(bundle, ranked, found, new)
    return ranked


def _beside(trees: Doubles, of_known: Doubles, scores: Doubles) -> Doubles:
    """Scores of items that the bundle does not know: those that its own have in the places that the
    forest alone puts them in.

    Few of the requests that a net learns from hold such items, and what it met little of it takes
    for a continuation of the rest: in a small synthetic shop half of the lists began with one.
    trees: their scores by the forest. of_known, scores: of the bundle's own, by it and in all.
    """
    within = np.clip(trees, of_known.min(), of_known.max())
    return np.interp(within, np.sort(of_known), np.sort(scores)) + (trees - within)


def _joined(bundle: Bundle, ranked: Ranked, found: Newcomers, scores: Doubles) -> Ranked:
    """With newcomers, and their scores, in rows behind those of the bundle."""
    count, places = len(bundle.items), len(ranked.rows)
    own = np.arange(count, count + len(found.names), dtype=np.int32)
    parts = np.zeros((len(ranked.parts.names) + len(BESIDE), places + len(own)), np.float32)
    parts[: -len(BESIDE), :places] = ranked.parts.values
    parts[-len(BESIDE) :, places:] = found.parts
    return Ranked(
        np.concatenate([ranked.rows, own]),
        np.concatenate([ranked.scores, scores]),
        Parts((*ranked.parts.names, *BESIDE), parts),
        Parts(ranked.made_of.names, np.concatenate([ranked.made_of.values, found.table], axis=1)),
        found.names,
    )


def _allowed(ranked: Ranked, allowed: Mask, search: str) -> Ranked:
    """Those that a mask allows. search: what found those that no source proposed, and whose they
    are."""
    places = np.flatnonzero(allowed[ranked.rows])
    parts, searched = ranked.parts, np.full((1, len(places)), TINY, dtype=np.float32)
    return Ranked(
        ranked.rows[places],
        ranked.scores[places],
        Parts((*parts.names, search), np.concatenate([parts.values[:, places], searched])),
        Parts(ranked.made_of.names, ranked.made_of.values[:, places]),
    )
