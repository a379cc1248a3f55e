"""Blend: ranking by weighted parts, where no ranker applies.

It needs little data, and no order of events: where there is one, what followed in other sessions
counts most. Every part is over its highest value among the items that may be shown, so that one set
of weights makes sense for every log, visitor and model: what a visitor has already scores far above
all that they may want, in some parts more than in others. Those that order tells of are over their
sum instead: they are shares of probability, and who is sure counts more than who is not.
"""

import numpy as np
from numpy.typing import NDArray

from recsys.bundle import Bundle
from recsys.models import item_knn
from recsys.models.popularity import POPULARITY
from recsys.retrieval import (
    SOURCES,
    Floats,
    Mask,
    Parts,
    Profile,
    Ranked,
    Rows,
    Scored,
    alone_among,
    among,
    filling,
    is_thin,
    joint_fold_in,
    kept,
    popular_of,
)

# What neighbours of the past count without a session, of what those of a session count: a long past
# is told better by the embedding.
PAST_ALONE = 0.7
# The sources that order tells of propose what the session holds already, as if all came again: that
# counts less where fewer than one event in so many does.
REVISITS = 5.0
# Sources that the order of a session's events tells of.
IN_ORDER = ("transitions", "session_knn", "session_embedding")


def rank(bundle: Bundle, who: Profile, n: int, out: Rows, allowed: Mask | None = None) -> Ranked:
    """Candidates of every part but the embedding, each scored by every part.

    out: rows that may not be shown, ascending; they may be candidates, but are no measure. allowed:
    only these are candidates, those that are out not among them; where the parts propose too few,
    more of them are searched for.

    The embedding only scores: what it would add to the neighbours of a visitor's items is rarely
    right, and finding it is the dearest step. Popular items are always among the candidates, so
    many that n may be shown.
    """
    config = bundle.config.blend
    recent = bundle.popularity.recent_order[: config.popular]
    near = item_knn.propose(bundle.item_knn, *who.live, config.item_knn)
    near_past = item_knn.propose(bundle.item_knn, *who.past, config.item_knn)
    past = who.past
    after = _in_order(bundle, who, allowed)
    if allowed is None:
        popular = min(len(bundle.items), max(config.popular, filling(out, n)))
        more = np.arange(popular, dtype=np.int32)
    else:
        proposed = len(near[0]) + len(near_past[0])
        near, near_past, past = (kept(scored, allowed) for scored in (near, near_past, past))
        recent = recent[allowed[recent]]
        more = popular_of(allowed, max(config.popular, n))
        if proposed and is_thin(len(near[0]) + len(near_past[0]), proposed, n):
            more = np.concatenate([more, among(bundle, who, n, allowed)])
    found = (near[0], near_past[0], past[0], *(scored[0] for scored in after.values()))
    rows = np.unique(np.concatenate([more, recent, *found]))
    values: dict[str, Floats] = {
        "embedding": bundle.embedding.item_factors[rows] @ joint_fold_in(bundle, who),
        "item_knn": _spread(rows, near),
        "item_knn_past": _spread(rows, near_past),
        "own": _spread(rows, past),
        "popularity": bundle.popularity.signs[rows, POPULARITY],
        "recent": bundle.popularity.recent[rows] * np.float32(bundle.facts.in_order),
        **{name: _spread(rows, scored) for name, scored in after.items()},
    }
    weights = _weights(bundle, who)
    shown = _others(rows, out)
    parts = [
        np.float32(weights[name]) * (_share if name in after else _relative)(part, shown)
        for name, part in values.items()
    ]
    made_of = Parts(tuple(values), np.stack(parts))
    return Ranked(rows, made_of.values.sum(axis=0), made_of, made_of)


def minds_order(bundle: Bundle) -> bool:
    """Whether IN_ORDER are asked: in baskets the rest is better without them, until a ranker weighs
    them."""
    return bundle.facts.in_order and bundle.config.session.order != "ignored"


def _in_order(bundle: Bundle, who: Profile, allowed: Mask | None) -> dict[str, Scored]:
    """What each of IN_ORDER proposes of allowed rows, if they are asked."""
    if not minds_order(bundle):
        return {}
    k = bundle.config.blend.in_order
    found = {
        name: SOURCES[name](bundle, who, k)
        if allowed is None
        else alone_among(bundle, who, name, k, allowed)
        for name in IN_ORDER
    }
    rows, cosines = found["session_embedding"]
    scale = np.float32(bundle.config.session_embedding.scale)
    # As its softmax has it; the cosines themselves differ by little.
    found["session_embedding"] = rows, np.exp(scale * (cosines - cosines.max(initial=-1)))
    again = np.float32(min(1.0, REVISITS * bundle.facts.metrics.get("revisit_rate", 1.0)))
    return {
        name: (rows, np.where(np.isin(rows, who.sequence), again * scores, scores))
        for name, (rows, scores) in found.items()
    }


def _weights(bundle: Bundle, who: Profile) -> dict[str, float]:
    """The configured weights; without a session the past speaks in its place."""
    weights = bundle.config.blend.weights
    if len(who.live[0]):
        return weights
    return {**weights, "item_knn_past": PAST_ALONE * weights["item_knn"]}


def _spread(rows: Rows, scored: Scored) -> Floats:
    """Scores spread over ascending rows that hold all of theirs; 0 elsewhere."""
    values = np.zeros(len(rows), dtype=np.float32)
    values[np.searchsorted(rows, scored[0])] = scored[1]
    return values


def _others(rows: Rows, out: Rows) -> NDArray[np.bool_]:
    """Which of ascending rows are not in out, ascending too."""
    others = np.ones(len(rows), dtype=np.bool_)
    at = np.searchsorted(rows, out)
    held = at < len(rows)
    at = at[held]
    others[at[rows[at] == out[held]]] = False
    return others


def _relative(part: Floats, shown: NDArray[np.bool_]) -> Floats:
    """A part over its highest value of those shown; as it is where none is positive."""
    highest = part.max(initial=0, where=shown)
    return part / highest if highest > 0 else part


def _share(part: Floats, shown: NDArray[np.bool_]) -> Floats:
    """A part over the sum of those shown; as it is where there are none."""
    total = part.sum(initial=0, where=shown)
    return part / total if total > 0 else part
