"""Fits: the parts of a bundle that settings are fitted into, refitted one at a time and remembered.

Everything is fitted on the head of the log, what precedes the tail; see `recsys.tuning.questions`.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import numpy as np

from recsys.bundle import Bundle
from recsys.config import Config
from recsys.evaluation.split import EvaluationError
from recsys.index import Index
from recsys.interactions import Interactions
from recsys.models import embedding, item_knn, session_embedding, session_knn, transitions
from recsys.tuning.space import AT_REQUEST

REMEMBERED = 3  # fits of a source: the best so far, the one that is tried, the one before

Parts = dict[str, Any]  # fields of a bundle


def _transitions(data: Interactions, config: Config, _ordered: bool) -> Parts:
    return {"transitions": transitions.fit(data.sequences, len(data.items), config.transitions)}


def _session_knn(data: Interactions, config: Config, _ordered: bool) -> Parts:
    return {"session_knn": session_knn.fit(data.sequences, len(data.items), config.session_knn)}


def _session_embedding(data: Interactions, config: Config, _ordered: bool) -> Parts:
    model = session_embedding.fit(
        data.sequences, len(data.items), config.session_embedding, config.training.seed
    )
    return {"session_embedding": model, "session_index": Index(model.item_vectors)}


def _embedding(data: Interactions, config: Config, _ordered: bool) -> Parts:
    seed, threads = config.training.seed, config.training.threads
    model = embedding.fit(data.by_visitor, config.embedding, seed, threads)
    return {"embedding": model, "index": Index(model.item_factors)}


def _item_knn(data: Interactions, config: Config, ordered: bool) -> Parts:
    threads = config.training.threads
    return {"item_knn": item_knn.fit(data.by_session, config.item_knn, threads, ordered)}


# Every table of the configuration that models are fitted with is one function and one line here.
# Indexes are exact: a few thousand answers are sooner scanned than an approximate index is built,
# whose own loss is measured in training.
FITS: dict[str, Callable[[Interactions, Config, bool], Parts]] = {
    "transitions": _transitions,
    "session_knn": _session_knn,
    "session_embedding": _session_embedding,
    "embedding": _embedding,
    "item_knn": _item_knn,
}


class Fits:
    """Bundles of one head under other configurations.

    start: as trained with its own. data: what it was trained on. Raises EvaluationError where it is
    not that.
    """

    def __init__(self, start: Bundle, data: Interactions) -> None:
        if not np.array_equal(data.popularity, start.popularity.counts):
            raise EvaluationError("the events to fit on are not those that precede the tail")
        self.start = replace(
            start,
            index=Index(start.embedding.item_factors),
            session_index=Index(start.session_embedding.item_vectors),
        )
        self.data = data
        self._remembered: dict[str, OrderedDict[Any, Parts]] = {t: OrderedDict() for t in FITS}

    def bundle(self, config: Config, *tables: str) -> Bundle:
        """The start's bundle with the parts of the tables fitted as the configuration says."""
        parts: Parts = {}
        for table in tables:
            if _fitted_with(table, config) != _fitted_with(table, self.start.config):
                parts.update(self._parts(table, config))
        return replace(self.start, config=config, **parts)

    def _parts(self, table: str, config: Config) -> Parts:
        remembered = self._remembered[table]
        key = _fitted_with(table, config)
        if key not in remembered:
            remembered[key] = FITS[table](self.data, config, self.start.facts.in_order)
        remembered.move_to_end(key)
        while len(remembered) > REMEMBERED:
            remembered.popitem(last=False)
        return remembered[key]


def _fitted_with(table: str, config: Config) -> tuple[Any, ...]:
    """The settings of a table without those that are read at request time."""
    settings = getattr(config, table)
    names = [field.name for field in fields(settings)]
    return tuple(getattr(settings, n) for n in names if f"{table}.{n}" not in AT_REQUEST)
