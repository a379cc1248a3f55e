"""Ranking: one table of named features over candidates, and the blend that weighs them."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from recsys.bundle import Bundle
from recsys.retrieval import Candidates, Profile

Floats = NDArray[np.float32]
Feature = Callable[[Bundle, Profile, Candidates], Floats]


def embedding(_bundle: Bundle, _who: Profile, candidates: Candidates) -> Floats:
    """Fold-in vector · item vector; about 1 where the model is sure of interest. No unit."""
    return candidates.sources["embedding"]


def similarity(_bundle: Bundle, _who: Profile, candidates: Candidates) -> Floats:
    """Weighted mean item-kNN similarity to the live session, 0..1."""
    return candidates.sources["item_knn"]


def past_similarity(_bundle: Bundle, _who: Profile, candidates: Candidates) -> Floats:
    """Weighted mean item-kNN similarity to earlier sessions, 0..1."""
    return candidates.sources["item_knn_past"]


def popularity(bundle: Bundle, _who: Profile, candidates: Candidates) -> Floats:
    """log(1 + count) over that of the most popular item, 0..1: breaks ties, fills empty lists."""
    most = np.log1p(bundle.popularity.counts[0])
    share: Floats = np.log1p(candidates.sources["popular"]) / most
    return share


FEATURES: dict[str, Feature] = {
    "embedding": embedding,
    "item_knn": similarity,
    "item_knn_past": past_similarity,
    "popularity": popularity,
}


def contributions(bundle: Bundle, who: Profile, candidates: Candidates) -> Floats:
    """Weight times value of each feature: float32 [features, candidates], in FEATURES' order."""
    weights = bundle.config.ranking.weights
    return np.stack(
        [
            np.float32(weights.get(name, 0.0)) * feature(bundle, who, candidates)
            for name, feature in FEATURES.items()
        ]
    )
