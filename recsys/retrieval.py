"""Retrieval: from a bundle and a session to the candidates worth ranking."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recsys.bundle import Bundle
from recsys.models import item_knn
from recsys.models.embedding import fold_in
from recsys.session import Session, Trail

Rows = NDArray[np.int32]
Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Profile:
    """A visitor in the rows of one bundle: distinct item rows (int32), weights (float32, > 0).

    live: this session and the anchor item. past: earlier live sessions and the bundle's history.
    fresh: something live was found (of this session or earlier live ones).
    user: the known user's row, -1 for a stranger. vector: the fold-in of both, float32 [d].
    """

    live: tuple[Rows, Floats]
    past: tuple[Rows, Floats]
    fresh: bool
    user: int
    vector: Floats


@dataclass(frozen=True, slots=True)
class Candidates:
    """rows: int32 [n], ascending. sources: name -> float32 [n], that source's score of each row."""

    rows: Rows
    sources: dict[str, Floats]


def profile(bundle: Bundle, session: Session, anchor: str | None = None) -> Profile:
    """Resolve a session against a bundle; items the bundle does not know are ignored."""
    config = bundle.config.embedding
    live = _resolve(bundle, session.current)
    if anchor is not None:
        live = _merge(_resolve(bundle, Trail((anchor,), np.ones(1, dtype=np.float32))), live)
    past = _resolve(bundle, session.past)
    fresh = bool(len(live[0]) or len(past[0]))
    user = int(bundle.users.rows([session.user_id])[0]) if session.user_id else -1
    past = _merge(past, _history(bundle, user))
    rows = np.concatenate([live[0], past[0]])
    confidence = np.concatenate([live[1], past[1] * np.float32(config.history_weight)])
    rows, confidence = _merge((rows, confidence), (rows[:0], confidence[:0]))
    vector = fold_in(bundle.embedding, rows, confidence * np.float32(config.alpha))
    return Profile(live, past, fresh, user, vector)


def retrieve(bundle: Bundle, who: Profile, at_least: int) -> Candidates:
    """The union of what each source proposes, every row scored by every source.

    The ``at_least`` most popular items are always among them, so that a list can be filled
    whatever the rules take out.
    """
    config = bundle.config.retrieval
    items = len(bundle.items)
    near = item_knn.scores(bundle.item_knn, *who.live)
    near_past = item_knn.scores(bundle.item_knn, *who.past)
    proposals = [np.arange(min(items, max(config.popular, at_least)), dtype=np.int32)]
    if len(who.live[0]) or len(who.past[0]):
        proposals.append(bundle.index.search(who.vector, config.embedding)[0])
        proposals.append(_top(near, config.item_knn))
        proposals.append(_top(near_past, config.item_knn))
    rows = np.unique(np.concatenate(proposals))
    return Candidates(
        rows=rows,
        sources={
            "embedding": bundle.embedding.item_factors[rows] @ who.vector,
            "item_knn": near[rows],
            "item_knn_past": near_past[rows],
            "popular": bundle.popularity.counts[rows],
        },
    )


def _resolve(bundle: Bundle, trail: Trail) -> tuple[Rows, Floats]:
    rows = bundle.items.rows(trail.items)
    known = rows >= 0
    return rows[known], trail.weights[known]


def _history(bundle: Bundle, user: int) -> tuple[Rows, Floats]:
    """The latest items of a known user; repeated interest counts by its logarithm."""
    entries = bundle.history.of(user)
    recent = slice(
        entries.start or 0,
        min(entries.stop, (entries.start or 0) + bundle.config.embedding.history_items),
    )
    return bundle.history.items[recent], np.log1p(bundle.history.weights[recent])


def _merge(first: tuple[Rows, Floats], second: tuple[Rows, Floats]) -> tuple[Rows, Floats]:
    """Distinct rows with summed weights, rows ascending."""
    rows = np.concatenate([first[0], second[0]])
    weights = np.concatenate([first[1], second[1]])
    distinct, inverse = np.unique(rows, return_inverse=True)
    return distinct, np.bincount(inverse, weights, minlength=len(distinct)).astype(np.float32)


def _top(scores: Floats, k: int) -> Rows:
    """Rows of the k highest positive scores, ties by row."""
    rows = np.flatnonzero(scores)
    if len(rows) > k:
        rows = rows[np.lexsort((rows, -scores[rows]))[:k]]
    return rows.astype(np.int32)
