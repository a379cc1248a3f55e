"""Blend: ranking by weighted parts, where no ranker applies.

It needs no order of events and little data: the fold-in of session and past into the embedding,
item neighbours, popularity.
"""

import numpy as np

from recsys.bundle import Bundle
from recsys.models import item_knn
from recsys.models.embedding import fold_in
from recsys.retrieval import NOTHING, Floats, Profile, Ranked, Rows, merge


def rank(bundle: Bundle, who: Profile, at_least: int) -> Ranked:
    """Candidates of every part, each scored by every part.

    The ``at_least`` most popular items are always among them, so that a list can be filled
    whatever the rules take out.
    """
    config = bundle.config.blend
    items = len(bundle.items)
    vector = joint_fold_in(bundle, who)
    near = item_knn.scores(bundle.item_knn, *who.live)
    near_past = item_knn.scores(bundle.item_knn, *who.past)
    proposals = [np.arange(min(items, max(config.popular, at_least)), dtype=np.int32)]
    if len(who.live[0]) or len(who.past[0]):
        proposals.append(bundle.index.search(vector, config.embedding)[0])
        proposals.append(_top(near, config.item_knn))
        proposals.append(_top(near_past, config.item_knn))
    rows = np.unique(np.concatenate(proposals))
    popularity = np.log1p(bundle.popularity.counts[rows]) / np.log1p(bundle.popularity.counts[0])
    values: dict[str, Floats] = {
        "embedding": bundle.embedding.item_factors[rows] @ vector,
        "item_knn": near[rows],
        "item_knn_past": near_past[rows],
        "popularity": popularity,
    }
    parts = {name: np.float32(config.weights[name]) * value for name, value in values.items()}
    scores = np.stack(list(parts.values())).sum(axis=0)
    return Ranked(rows, scores, parts, parts)


def joint_fold_in(bundle: Bundle, who: Profile) -> Floats:
    """The embedding's vector of session and past together, float32 [d]."""
    config = bundle.config.embedding
    rows = np.concatenate([who.live[0], who.past[0]])
    confidence = np.concatenate([who.live[1], who.past[1] * np.float32(config.history_weight)])
    rows, confidence = merge((rows, confidence), NOTHING)
    return fold_in(bundle.embedding, rows, confidence * np.float32(config.alpha))


def _top(scores: Floats, k: int) -> Rows:
    """Rows of the k highest positive scores, ties by row."""
    rows = np.flatnonzero(scores)
    if len(rows) > k:
        rows = rows[np.lexsort((rows, -scores[rows]))[:k]]
    return rows.astype(np.int32)
