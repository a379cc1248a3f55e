"""Space: the settings that tuning may change, and where each may lie.

The ranges are wide, but not wider than a server can bear: what makes a source slow or a bundle
large is bounded.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution

from recsys.config import UNORDERED, Config, config_from_dict

Value = int | float
Values = dict[str, Value]


@dataclass(frozen=True)
class Setting:
    """A number of the configuration, named as there, "table.field".

    log: searched by factors, not by steps. whole: an int. fit: models are fitted with it, so that
    another value needs another fit; else it is read at request time.
    """

    name: str
    low: float
    high: float
    log: bool = False
    whole: bool = False
    fit: bool = False

    def distribution(self, start: Value) -> BaseDistribution:
        """Where the value may lie; the range is stretched so that it holds ``start``."""
        low, high = min(self.low, start), max(self.high, start)
        log = self.log and low > 0
        if self.whole:
            return IntDistribution(int(low), int(high), log=log)
        return FloatDistribution(low, high, log=log)

    def rounded(self, value: Value, start: Value) -> Value:
        """To two digits, so that people can read it."""
        if value in (start, 0):
            return value
        near = round(value, 1 - math.floor(math.log10(abs(value))))
        return min(max(near, min(self.low, start)), max(self.high, start))


def _fit(*settings: Setting) -> tuple[Setting, ...]:
    return tuple(
        Setting(s.name, s.low, s.high, log=s.log, whole=s.whole, fit=True) for s in settings
    )


TRANSITIONS = (
    *_fit(
        Setting("transitions.window", 1, 20, log=True, whole=True),
        Setting("transitions.distance_decay", 0.3, 1.0),
        Setting("transitions.backward", 0.0, 1.5),
        Setting("transitions.age_decay", 0.0, 10.0),
        Setting("transitions.neighbours", 50, 300, log=True, whole=True),
    ),
    Setting("transitions.last_items", 1, 30, log=True, whole=True),
    Setting("transitions.decay", 0.1, 1.0),
)

SESSION_KNN = (
    *_fit(
        Setting("session_knn.sessions_per_item", 100, 3000, log=True, whole=True),
        Setting("session_knn.age_decay", 0.0, 10.0),
        Setting("session_knn.match_idf", 0.0, 2.0),
        Setting("session_knn.vote_idf", 0.0, 1.5),
        Setting("session_knn.length_power", 0.0, 1.0),
    ),
    Setting("session_knn.neighbours", 50, 1500, log=True, whole=True),
    Setting("session_knn.last_items", 1, 30, log=True, whole=True),
    Setting("session_knn.decay", 0.0, 2.0),
    Setting("session_knn.forward_decay", 0.0, 1.5),
    Setting("session_knn.backward_decay", 0.0, 1.5),
)

SESSION_EMBEDDING = _fit(
    Setting("session_embedding.embedding_size", 64, 384, log=True, whole=True),
    Setting("session_embedding.epochs", 2, 8, whole=True),
    Setting("session_embedding.last_items", 3, 20, log=True, whole=True),
    Setting("session_embedding.negatives", 512, 4096, log=True, whole=True),
    Setting("session_embedding.negative_power", 0.25, 1.0),
    Setting("session_embedding.learning_rate", 0.03, 0.3, log=True),
    Setting("session_embedding.scale", 5.0, 20.0, log=True),
    Setting("session_embedding.age_decay", 0.0, 6.0),
)

ITEM_KNN = _fit(
    Setting("item_knn.neighbours", 50, 400, log=True, whole=True),
    Setting("item_knn.degree_power", 0.0, 0.7),
    Setting("item_knn.length_power", 0.0, 1.0),
    Setting("item_knn.age_decay", 0.0, 8.0),
)

_SIZE = _fit(Setting("embedding.embedding_size", 64, 2048, log=True, whole=True))
_EPOCHS = _fit(Setting("embedding.epochs", 5, 30, log=True, whole=True))

# By its model: what this one does not know is not searched.
EMBEDDING: dict[str, tuple[Setting, ...]] = {
    "svd": _fit(
        *_SIZE,
        Setting("embedding.degree_power", 0.0, 0.7),
        Setting("embedding.length_power", 0.0, 0.7),
    ),
    "als": _fit(
        *(_SIZE + _EPOCHS),
        Setting("embedding.reg", 0.01, 100.0, log=True),
        Setting("embedding.alpha", 1.0, 200.0, log=True),
    ),
    "bpr": _fit(*(_SIZE + _EPOCHS), Setting("embedding.learning_rate", 0.01, 0.2, log=True)),
}

# What counts only for visitors with a past.
EMBEDDING_PAST = (
    Setting("embedding.history_items", 10, 400, log=True, whole=True),
    Setting("embedding.history_weight", 0.02, 2.0, log=True),
)

BLEND: tuple[Setting, ...] = (
    Setting("blend.weights.embedding", 0.0, 2.0),
    Setting("blend.weights.item_knn", 0.0, 2.0),
    Setting("blend.weights.popularity", 0.0, 1.0),
    Setting("blend.weights.recent", 0.0, 2.0),
)

# What counts only for visitors with a past ...
BLEND_PAST = (
    Setting("blend.weights.item_knn_past", 0.0, 2.0),
    Setting("blend.weights.own", 0.0, 2.0),
)

# ... only for those with a session ...
BLEND_SESSION = (Setting("session.decay", 0.2, 1.0),)

# ... and only for those whose session's events are in order.
BLEND_IN_ORDER = (
    Setting("blend.weights.transitions", 0.0, 400.0),
    Setting("blend.weights.session_knn", 0.0, 400.0),
    Setting("blend.weights.session_embedding", 0.0, 400.0),
)

# Settings of the fitted tables that are read at request time: another value needs no other fit.
AT_REQUEST = frozenset(
    setting.name
    for settings in (TRANSITIONS, SESSION_KNN, EMBEDDING_PAST)
    for setting in settings
    if not setting.fit
)

# Features of the ranker that are no source's.
CONTINUATIONS = (
    Setting("continuations.context", 1, 8, log=True, whole=True),
    Setting("continuations.decay", 0.3, 1.0),
)

RANKER = (
    Setting("ranker.trees", 40, 400, log=True, whole=True),
    Setting("ranker.leaves", 8, 63, log=True, whole=True),
    Setting("ranker.learning_rate", 0.03, 0.3, log=True),
    Setting("ranker.min_leaf", 10, 500, log=True, whole=True),
    Setting("ranker.net_weight", 0.0, 2.0),
)


def in_force(settings: tuple[Setting, ...], config: Config) -> tuple[Setting, ...]:
    """Those worth a search: weights by place are not where the order is ignored."""
    if config.session.order != "ignored":
        return settings
    fixed = {f"{table}.{field}" for table, fields in UNORDERED.items() for field in fields}
    return tuple(setting for setting in settings if setting.name not in fixed)


def candidates_of(source: str) -> Setting:
    """How many candidates a source that is on gives to the ranker."""
    return Setting(f"retrieval.{source}", 10, 120, log=True, whole=True)


def value_of(config: Config, name: str) -> Value:
    """The number of that name."""
    here: Any = config
    for part in name.split("."):
        here = here[part] if isinstance(here, Mapping) else getattr(here, part)
    value: Value = here
    return value


def with_values(config: Config, values: Mapping[str, Value]) -> Config:
    """The configuration with other numbers. Raises ConfigError."""
    data = config.to_dict()
    for name, value in values.items():
        *tables, field = name.split(".")
        here = data
        for table in tables:
            here = here[table]
        here[field] = value
    return config_from_dict(data)


def values_of(config: Config, settings: tuple[Setting, ...]) -> Values:
    """What a configuration says about the settings."""
    return {setting.name: value_of(config, setting.name) for setting in settings}
