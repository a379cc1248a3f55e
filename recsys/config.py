"""Configuration: every setting that changes recommendations, with its default and its reason.

Read from ``recsys.toml``, stored in the bundle. Settings of the deployment (ports, Redis, keys) are
environment and command line, never here.
"""

import dataclasses
import difflib
import math
import re
import tomllib
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from recsys.durations import seconds_of
from recsys.events import EVENT_WEIGHTS, InputError

EmbeddingModel = Literal["als", "bpr", "svd"]

# Passes over the matrix after which each embedding model changes little.
EPOCHS = {"als": 15, "bpr": 15, "svd": 4}
IndexKind = Literal["auto", "exact", "ivf", "hnsw", "ivfpq", "sq8"]


# A tree's leaves are the bits of one number.
MOST_LEAVES = 64
# Shares that a tree is grown from, and the least there may be: of next to none no tree grows.
FRACTIONS = ("feature_fraction", "bagging_fraction")
LEAST_FRACTION = 0.05

# Whole numbers for which 0 means something; of the others there must be at least one.
MEASURED = ("ivf_lists", "ivf_probes", "hnsw_search")  # of an index, 0 where training finds them
MAY_BE_ZERO = {
    "training.seed",
    "training.threads",
    "embedding.epochs",
    *(f"{index}.{name}" for index in ("index", "session_index") for name in MEASURED),
    "retrieval",
}


class ConfigError(InputError):
    """A setting is unknown or has a value that cannot be used; the text names it."""


@dataclass(frozen=True)
class EventsConfig:
    # Interest shown by one event of a type, relative to a view. Types absent here keep their
    # default; a new name declares a new type.
    weights: dict[str, float] = field(default_factory=lambda: dict(EVENT_WEIGHTS))
    # Events of a log without a `type` column are of this type.
    default_type: str = "view"
    # A `rating` counts as value / rating_scale.
    rating_scale: float = 5.0
    # Minutes of silence after which a user's next event opens a new session.
    idle_minutes: float = 30.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "weights", {**EVENT_WEIGHTS, **self.weights})
        if self.default_type not in self.weights:
            raise ConfigError(f"events.default_type: no weight for {self.default_type!r}")


@dataclass(frozen=True)
class SessionConfig:
    # Whether it tells something in which order a session's events stand. auto: it does, unless most
    # stand in sessions of one time (baskets, whose lines have no order). Where ignored, the
    # defaults of some settings are those of UNORDERED.
    order: Literal["auto", "kept", "ignored"] = "auto"
    max_events: int = 50  # the last events of the session that count
    max_past_events: int = 100  # the last live events of a known user's earlier sessions
    decay: float = 0.6  # weight lost per later distinct item, in the session ...
    past_decay: float = 0.97  # ... and in earlier sessions


@dataclass(frozen=True)
class EmbeddingConfig:
    model: EmbeddingModel = "svd"
    # Dimensions. People with long histories gain from so many; svd takes fewer for a small or thin
    # log.
    embedding_size: int = 1024
    epochs: int = 0  # 0: as many as the model needs, see EPOCHS
    # svd only: exponents of an item's and of a visitor's degree in the normalisation.
    degree_power: float = 0.4
    length_power: float = 0.3
    reg: float = 1.0  # ridge weight of ALS and of its and BPR's fold-in
    alpha: float = 20.0  # ALS confidence of one view
    learning_rate: float = 0.05  # bpr only
    history_items: int = 200  # a known user's latest items that join the fold-in and item-kNN
    history_weight: float = 0.3  # weight of history against the session in the fold-in

    def __post_init__(self) -> None:
        object.__setattr__(self, "epochs", self.epochs or EPOCHS[self.model])


@dataclass(frozen=True)
class ItemKnnConfig:
    neighbours: int = 200  # kept per item
    # Exponent of both items' degrees in the normalisation: 0.5 is the cosine, lower favours popular
    # neighbours.
    degree_power: float = 0.4
    # A session of n items counts n ** -length_power: in a long one items meet by chance.
    length_power: float = 0.65
    age_decay: float = 3.0  # weight of a session: exp(-age_decay * share of sessions after it)


@dataclass(frozen=True)
class TransitionsConfig:
    window: int = 8  # events on either side that count as a transition
    distance_decay: float = 0.7  # weight kept per event further away
    backward: float = 0.7  # weight of what came before against what came after
    age_decay: float = 1.0  # weight of a session: exp(-age_decay * share of sessions after it)
    neighbours: int = 150  # transitions kept per item
    last_items: int = 10  # of the session, that ask
    decay: float = 0.6  # weight kept per event back in the session


@dataclass(frozen=True)
class ContinuationsConfig:
    events_per_item: int = 500  # the most recent ones are looked at
    context: int = 4  # events before that are compared, on either side
    decay: float = 0.7  # weight kept per event further back, on either side


@dataclass(frozen=True)
class SessionKnnConfig:
    sessions_per_item: int = 1000  # the most recent ones are indexed
    neighbours: int = 300  # sessions that vote
    last_items: int = 10  # of the session, that look for neighbours
    decay: float = 0.6  # exponent per event back in the session
    age_decay: float = 1.0  # exponent over the share of sessions after the neighbour
    forward_decay: float = 0.2  # exponent per place after the matched item in the neighbour ...
    backward_decay: float = 0.2  # ... and before it
    match_idf: float = 1.5  # power of a shared item's idf in the similarity
    vote_idf: float = 0.7  # power of the voted item's idf
    length_power: float = 0.25  # of the neighbour's length, dividing its similarity


@dataclass(frozen=True)
class SessionEmbeddingConfig:
    embedding_size: int = 192
    epochs: int = 5
    last_items: int = 8  # of the session, that make its vector
    batch: int = 512  # examples per step
    negatives: int = 1024  # shared by a batch; twice as many bring little for twice the time
    negative_power: float = 0.75  # negatives are drawn by popularity to this power
    learning_rate: float = 0.1  # Adagrad, falling linearly to 0
    scale: float = 10.0  # of the cosine in the softmax
    age_decay: float = 1.0  # weight of an example: exp(-age_decay * share of sessions after it)


@dataclass(frozen=True)
class IndexConfig:
    # auto: exact up to exact_items, where a scan takes a fraction of a millisecond; then ivf, which
    # reads a few lists of codes from end to end; where that misses recall_target, as with a million
    # items, hnsw, which jumps through memory and takes ten times as long to build. Both keep 8-bit
    # codes and score what they find by the vectors themselves.
    kind: IndexKind = "exact"
    exact_items: int = 5_000
    hnsw_links: int = 24  # M, 2 at least
    hnsw_build: int = 100  # efConstruction
    hnsw_search: int = 0  # efSearch; 0: the least of 64 to 512 that reaches recall_target
    ivf_lists: int = 0  # as many as there are items at most; 0: items ** 0.6
    ivf_probes: int = 0  # lists looked at; 0: the least of 4 to 64 that reaches it
    recall_target: float = 0.97
    pq_subvectors: int = 32  # bytes per vector before re-scoring
    recall_at: int = 100  # depth at which recall against exact is measured
    recall_queries: int = 1000

    def __post_init__(self) -> None:
        if self.recall_target > 1:
            raise ConfigError(
                f"index: recall_target: a share of the exact ones, at most 1, got "
                f"{self.recall_target}"
            )
        if self.hnsw_links < 2:
            raise ConfigError(f"index: hnsw_links: must be at least 2, got {self.hnsw_links}")


@dataclass(frozen=True)
class RetrievalConfig:
    """Candidates that the ranker gets from each source; 0 turns a source off, None leaves the
    number to training: that of CANDIDATES."""

    transitions: int | None = None
    session_knn: int | None = None
    session_embedding: int | None = None
    # It scores what the others propose; to search it brings little and costs more than they all.
    embedding: int = 0
    item_knn: int | None = None
    item_knn_past: int | None = None
    own: int | None = None  # what the known user came back to
    # Popular of late: where nothing of the session is known, its order is ignored or a placement
    # names them.
    recent: int = 10
    popular: int | None = None
    # What the stream says now, by the aggregates of these names, where the ranker is told of them:
    # what came after the last items, and what is looked at most.
    # None: as LIVE has it; and 0 wherever the ranker is not told.
    co_viewed_now: int | None = None
    trending: int | None = None
    # Items that the bundle does not know, by what came after the last items as the stream says it.
    # None: NEWCOMERS where the ranker is told of co_viewed_now, else 0.
    newcomers: int | None = None
    # Items that nobody has touched yet, by what the shop says of them, where training was told that
    # of others.
    unseen: int = 5


# Each part is over its highest value of what may be shown. item_knn_past counts beside a session;
# without one it has most of item_knn's weight.
BLEND = {
    "embedding": 1.0,
    "item_knn": 1.0,
    "item_knn_past": 0.2,
    "own": 0.7,
    "popularity": 0.05,
    "recent": 0.7,
    # Where the order of events is kept, and there is a session: these know best what comes next.
    # Each is over its sum, so most are some hundredths.
    "transitions": 50.0,
    "session_knn": 150.0,
    "session_embedding": 150.0,
}


@dataclass(frozen=True)
class BlendConfig:
    """Ranks without a ranker: without live session, for baskets, or without data to train one."""

    # Candidates: neighbours of the session and of the past each, popular and recent items each, and
    # of each source that the order of a session's events tells of, whatever [retrieval] says.
    item_knn: int = 500
    popular: int = 100
    in_order: int = 100
    # Weight of each named part; those not given keep their default.
    weights: dict[str, float] = field(default_factory=lambda: dict(BLEND))

    def __post_init__(self) -> None:
        for name in self.weights:
            if name not in BLEND:
                raise ConfigError(f"blend.weights.{name}: unknown{nearest(name, list(BLEND))}")
        object.__setattr__(self, "weights", {**BLEND, **self.weights})


@dataclass(frozen=True)
class RankerConfig:
    """Gradient-boosted trees and a small net over the feature table, see `recsys.models.forest` and
    `recsys.models.net`."""

    enabled: bool = True
    # What a list is to hold: the item touched next, or all that is still to come in the session.
    # auto: the rest where the order of its events is ignored, else the next.
    target: Literal["auto", "next-item", "rest-of-session"] = "auto"
    # Parts of the log's end that the ranker learns from, one before the other, each replayed
    # against sources fitted on what precedes it: twice the requests, and the sources of each are
    # as fresh as those that will serve.
    tails: int = 2
    # Share of the log that they take together. 0: what holds a quarter of ``requests`` events, but
    # 8 % a tail at least, and 25 % at most, as the sources it learns with do without it.
    tail: float = 0.0
    requests: int = 120_000  # of the tails together, at most
    # Share of the items that the shop tells of which the sources of a tail are not to know, so that
    # the ranker meets items that nobody has touched yet and that come to be.
    hidden: float = 0.05
    min_requests: int | None = None  # with fewer the blend ranks. None: as RANKED has it
    trees: int = 100
    leaves: int = 31  # of a tree, 64 at most; fewer where there is less than leaf_requests for each
    leaf_requests: int = 500
    learning_rate: float = 0.1
    min_leaf: int = 50  # candidates
    # Of the net's scores beside those of the trees; 0: no net.
    net_weight: float = 0.8
    net_units: int = 64
    net_epochs: int = 6  # more of few requests
    # Shares of the features, and of the requests, that each tree is grown from. None: as RANKED has
    # it.
    feature_fraction: float | None = None
    bagging_fraction: float | None = None

    def __post_init__(self) -> None:
        for name in FRACTIONS:
            share = getattr(self, name)
            if share is not None and not LEAST_FRACTION <= share <= 1:
                raise ConfigError(f"ranker.{name}: from {LEAST_FRACTION:g} to 1, got {share:g}")
        for name, of in (("tail", "the log"), ("hidden", "the items")):
            if (value := getattr(self, name)) >= 1:
                raise ConfigError(f"ranker.{name}: a share of {of}, below 1, got {value}")
        if self.leaves > MOST_LEAVES:
            raise ConfigError(f"ranker.leaves: must be at most {MOST_LEAVES}, got {self.leaves}")


# Defaults where the order of a session's events is ignored: none counts less for its place, and as
# many speak as there is time for.
UNORDERED: dict[str, dict[str, float]] = {
    "session": {"max_events": 200, "decay": 1.0},
    "transitions": {"decay": 1.0, "last_items": 30},
    "session_knn": {"decay": 0.0, "last_items": 30},
    "session_embedding": {"last_items": 20},
}
ORDER_IGNORED = (
    "the order of a session's events is ignored, as that of a basket's lines; "
    '[session] order = "kept" minds it'
)
# Candidates of a source where the order is kept, and where it is ignored: what is left of a basket
# is many items.
CANDIDATES = {
    # In order the others know better; what transitions count is in features, and in the blend.
    "transitions": (0, 60),
    "item_knn": (0, 60),
    "session_knn": (40, 80),
    "session_embedding": (60, 60),
    "item_knn_past": (40, 80),
    "own": (50, 100),
    "popular": (0, 10),
}
# The same of the ranker: it is better than the blend from so many requests on, and trees of baskets
# are better for not seeing all.
RANKED = {
    "min_requests": (400, 1_000),
    "feature_fraction": (1.0, 0.5),
    "bagging_fraction": (1.0, 0.5),
}
# Sources that only stand beside others in a list.
BESIDE = ("newcomers", "unseen")  # see `recsys.newcomers`
# Candidates of the sources that are live, by the names of their aggregates, and these' kinds.
LIVE = {"co_viewed_now": (30, "co_count"), "trending": (0, "decayed_count")}
NEWCOMERS = 10


# Kinds of live aggregates by what bounds them in time.
DECAYED = ("decayed_count", "ratio", "co_count")
WINDOWED = ("window_count", "unique_sessions")


@dataclass(frozen=True)
class Aggregate:
    """A live statistic, declared once: ``recsys.aggregates`` says what each kind is.

    The executors, over a log and over the stream, give the same values.
    """

    name: str
    kind: Literal[
        "decayed_count", "window_count", "ratio", "last_value", "co_count", "unique_sessions"
    ]
    # What it is kept for: each item, user or session; "category", where an event counts for each
    # that its item has at that moment; "pair", one item after another, with co_count and with it
    # alone.
    key: Literal["item", "user", "session", "category", "pair", ""] = ""
    # Event types that count; empty: all that show interest.
    types: tuple[str, ...] = ()
    # ratio only: event types that it is a share of, such as "impression".
    of: tuple[str, ...] = ()
    # An event counts half after this time. Of decayed_count, ratio and co_count.
    half_life: str = ""
    # Of window_count and unique_sessions: how far it looks back, in steps of a 24th of it.
    window: str = ""
    # co_count only: items further apart in a session do not follow each other.
    gap: str = ""
    # decayed_count only: of a session's events for a key the first in each such time counts, so
    # that whoever comes back and back is one; empty: all count.
    once: str = ""
    # ratio only: as many events with the share ``prior`` count beside those seen.
    smoothing: float = 20.0
    prior: float = 0.0
    # last_value only: what of an event it is, its value or the price that its item then had.
    field: Literal["value", "price"] = "value"
    # Whether the ranker is told of it; where a log has no times it never is. None: where the order
    # of a session's events is kept. In baskets what others do now has told nothing more.
    ranking: bool | None = None

    def __post_init__(self) -> None:
        where = f"aggregate.{self.name}"
        if not re.fullmatch("[a-z][a-z0-9_]{0,63}", self.name):
            raise ConfigError(
                f"aggregate: name {self.name!r}: small letters, digits and _, a letter first"
            )
        self._settle("key", self.kind == "co_count", "pair", "item")
        if (self.key == "pair") != (self.kind == "co_count"):
            raise ConfigError(f"{where}.key: {self.key!r} is not for {self.kind}")
        for field_, needed, default in (
            ("half_life", self.kind in DECAYED, "1d"),
            ("window", self.kind in WINDOWED, "1d"),
            ("gap", self.kind == "co_count", "30m"),
        ):
            given = getattr(self, field_)
            if given and not needed:
                raise ConfigError(f"{where}.{field_}: {self.kind} has none")
            self._settle(field_, needed, default, "")
            if needed and not seconds_of(getattr(self, field_)):
                raise ConfigError(f"{where}.{field_}: {given!r} is not a duration such as 30m, 6h")
        if self.once and self.kind != "decayed_count":
            raise ConfigError(f"{where}.once: {self.kind} has none, only decayed_count")
        if self.once and not seconds_of(self.once):
            raise ConfigError(f"{where}.once: {self.once!r} is not a duration such as 30m, 6h")
        if bool(self.of) != (self.kind == "ratio"):
            lacks = "needs the event types it is a share of" if not self.of else "only of a ratio"
            raise ConfigError(f"{where}.of: {lacks}")
        if self.field != "value" and self.kind != "last_value":
            raise ConfigError(f"{where}.field: {self.kind} has none, only last_value")

    def _settle(self, name: str, one: bool, default: str, other: str) -> None:
        if not getattr(self, name):
            object.__setattr__(self, name, default if one else other)

    @cached_property
    def span(self) -> float:
        """Seconds of its half-life or window; 0 of a last_value."""
        return seconds_of(self.half_life or self.window) or 0.0

    @cached_property
    def gap_seconds(self) -> float:
        """0 without one."""
        return seconds_of(self.gap) or 0.0

    @cached_property
    def once_seconds(self) -> float:
        """0 where all count."""
        return seconds_of(self.once) or 0.0


# What every configuration has: what is looked at now, and what follows what. ``usual`` is what
# trends are measured against.
AGGREGATES = (
    Aggregate("trending", "decayed_count", half_life="6h", once="12h"),
    Aggregate("usual", "decayed_count", half_life="7d", once="12h"),
    Aggregate("co_viewed_now", "co_count", half_life="1d"),
)


@dataclass(frozen=True)
class Placement:
    """A named kind of list. Those that every configuration has, and what a shop expects of them:

    ``default``: what this visitor may want now, on any page. What was looked at may come again, as
    a fifth to a third of next clicks do; what is in the cart or bought may not.
    ``continue``: where the visitor left off. Everything may come again, whatever was done to it.
    ``discover``: what is new to the visitor. Nothing of this session or an earlier one.
    ``basket``: what goes with the session, on a cart's or an item's page. Nothing that is already
    in the session, but what was bought before, as milk is bought again.

    What was refused (``remove``, ``dislike``) is out of all of them.
    """

    # Event types that take an item out while they stand in the current session; "any" for all.
    exclude: tuple[str, ...] = ("cart", "purchase")
    # Items a known user bought in earlier sessions are out: "always", "never", or "auto": decided
    # in training, "never" where people buy the same things again.
    exclude_bought: Literal["auto", "always", "never"] = "auto"
    # Items a known user touched in earlier sessions are out, whatever was done to them.
    exclude_seen: bool = False
    # Sources that may propose candidates, of those that [retrieval] has on; empty: all of them, as
    # the ranker has learned to weigh them.
    sources: tuple[str, ...] = ()
    # "auto": the ranker where it applies, else the blend; "blend"; or one source, in its own order.
    ranking: str = "auto"
    # How much a list's items are to differ from each other, from 0 (by score alone) to 1; see
    # recsys.selection. A request may ask for another. It costs hits, so whoever wants it says so.
    diversity: float = 0.0
    # Share of a list's places, rounded up, for items that nobody has touched yet, where some are
    # near: they take the last places if the ranking gives them none. What is never shown is never
    # chosen, but it costs hits, so whoever wants it says so; scripts/cold_start.py measures both.
    explore: float = 0.0


@dataclass(frozen=True)
class TrainingConfig:
    seed: int = 42
    # Threads of training, 0 for all cores. The bundle does not depend on it, except with bpr, which
    # is reproducible with one thread only and so takes 0 for 1.
    threads: int = 0
    # Sessions of an earlier purchase / all purchases by known users, from which `auto` reads
    # "people buy the same things again".
    repeat_purchase_rate: float = 0.1


@dataclass(frozen=True)
class Config:
    events: EventsConfig = EventsConfig()
    session: SessionConfig = SessionConfig()
    embedding: EmbeddingConfig = EmbeddingConfig()
    item_knn: ItemKnnConfig = ItemKnnConfig()
    transitions: TransitionsConfig = TransitionsConfig()
    continuations: ContinuationsConfig = ContinuationsConfig()
    session_knn: SessionKnnConfig = SessionKnnConfig()
    session_embedding: SessionEmbeddingConfig = SessionEmbeddingConfig()
    index: IndexConfig = IndexConfig()
    session_index: IndexConfig = IndexConfig(kind="auto")
    retrieval: RetrievalConfig = RetrievalConfig()
    blend: BlendConfig = BlendConfig()
    ranker: RankerConfig = RankerConfig()
    training: TrainingConfig = TrainingConfig()
    aggregate: tuple[Aggregate, ...] = AGGREGATES
    placements: dict[str, Placement] = field(
        default_factory=lambda: {
            "default": Placement(),
            "continue": Placement(exclude=(), exclude_bought="never"),
            "discover": Placement(exclude=("any",), exclude_bought="always", exclude_seen=True),
            "basket": Placement(exclude=("any",), exclude_bought="never"),
        }
    )

    def __post_init__(self) -> None:
        names = [aggregate.name for aggregate in self.aggregate]
        for aggregate in self.aggregate:
            where = f"aggregate.{aggregate.name}"
            if names.count(aggregate.name) > 1:
                raise ConfigError(f"{where}: declared twice")
            for setting in ("types", "of"):
                named = getattr(aggregate, setting)
                _check_names(f"{where}.{setting}", "event type", named, [*self.events.weights])
        sources = [f.name for f in dataclasses.fields(RetrievalConfig)]
        for name, placement in self.placements.items():
            where = f"placements.{name}"
            types = [*self.events.weights, "any"]
            _check_names(f"{where}.exclude", "event type", placement.exclude, types)
            _check_names(f"{where}.sources", "source", placement.sources, sources)
            rankings = ["auto", "blend", *(name for name in sources if name not in BESIDE)]
            _check_names(f"{where}.ranking", "ranking", (placement.ranking,), rankings)
            if placement.sources and placement.ranking != "auto":
                raise ConfigError(
                    f"{where}.sources: only the ranker asks them; with ranking = "
                    f"{placement.ranking!r} leave them out"
                )
            for name in ("diversity", "explore"):
                if not 0 <= (share := getattr(placement, name)) <= 1:
                    raise ConfigError(f"{where}.{name}: must be from 0 to 1, got {share}")

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def with_placement(self, name: str, **changes: Any) -> "Config":
        """The same, with other settings in one of its placements."""
        placement = dataclasses.replace(self.placements[name], **changes)
        return dataclasses.replace(self, placements={**self.placements, name: placement})

    def settled(self, *, simultaneous: bool, timed: bool = True) -> "Config":
        """With "auto" and None made out for a log. simultaneous: most events of a session share one
        time. timed: its events have times at all. Raises ConfigError where a placement names a
        source that is then off."""
        order, target = self.session.order, self.ranker.target
        if order == "auto":
            order = "ignored" if simultaneous else "kept"
        if target == "auto":
            target = "rest-of-session" if order == "ignored" else "next-item"
        sources = _left_open(self.retrieval, CANDIDATES, order)
        ranked = _left_open(self.ranker, RANKED, order)
        aggregates = tuple(
            dataclasses.replace(aggregate, ranking=timed and _chosen(aggregate, order))
            for aggregate in self.aggregate
        )
        told = {
            (aggregate.name, aggregate.kind)
            for aggregate in aggregates
            if aggregate.ranking and aggregate.key in ("item", "pair")
        }
        for name, (usual, kind) in LIVE.items():
            given = getattr(self.retrieval, name)
            sources[name] = (usual if given is None else given) if (name, kind) in told else 0
        sources["newcomers"] = 0
        if ("co_viewed_now", "co_count") in told:
            given = self.retrieval.newcomers
            sources["newcomers"] = NEWCOMERS if given is None else given
        self._check_sources(dataclasses.replace(self.retrieval, **sources))
        for name, placement in self.placements.items():
            if timed and placement.ranking in LIVE and placement.ranking not in dict(told):
                raise ConfigError(
                    f"placements.{name}.ranking: {placement.ranking!r} needs the aggregate of that "
                    "name, with ranking = true"
                )
        config = dataclasses.replace(
            self,
            session=dataclasses.replace(self.session, order=order),
            retrieval=dataclasses.replace(self.retrieval, **sources),
            ranker=dataclasses.replace(self.ranker, target=target, **ranked),
            aggregate=aggregates,
        )
        if order == "kept":
            return config
        tables = {
            name: _where_default(getattr(config, name), values)
            for name, values in UNORDERED.items()
        }
        return dataclasses.replace(config, **tables)

    def _check_sources(self, retrieval: RetrievalConfig) -> None:
        for name, placement in self.placements.items():
            for source in placement.sources:
                if not getattr(retrieval, source):
                    raise ConfigError(
                        f"placements.{name}.sources: {source!r} is off; give it candidates: "
                        f"retrieval.{source} = 30"
                    )


def _chosen(aggregate: Aggregate, order: str) -> bool:
    return order == "kept" if aggregate.ranking is None else aggregate.ranking


def _left_open(table: Any, usual: dict[str, tuple[Any, Any]], order: str) -> dict[str, Any]:
    """The values of settings that nobody set: where the order is kept, and where it is ignored."""
    return {
        name: in_baskets if order == "ignored" else in_order
        for name, (in_order, in_baskets) in usual.items()
        if getattr(table, name) is None
    }


def _where_default(table: Any, values: dict[str, float]) -> Any:
    """A table with these values in the place of its defaults; what a person set stays."""
    defaults = type(table)()
    left = {k: v for k, v in values.items() if getattr(table, k) == getattr(defaults, k)}
    return dataclasses.replace(table, **left)


def load_config(path: Path | None) -> Config:
    """The configuration in a TOML file, defaults where it is silent; ``None``: all defaults.

    Raises ConfigError naming the file and the setting.
    """
    if path is None:
        return Config()
    try:
        return config_from_dict(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from error
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def config_from_dict(data: dict[str, Any]) -> Config:
    """Configuration from nested dicts; unknown names are refused with the nearest known one."""
    data = dict(data)
    placements = data.pop("placements", None)
    if "aggregate" in data:
        data["aggregate"] = _aggregates(data["aggregate"])
    config: Config = _build(Config, data, "")
    if placements is not None:
        if not isinstance(placements, dict):
            raise ConfigError(f"placements: expected tables, got {placements!r}")
        named = dict(config.placements)
        for name, table in placements.items():
            if name in named and isinstance(table, dict):
                # What a table is silent about stays as it is in the placement of that name.
                table = {**dataclasses.asdict(named[name]), **table}
            named[name] = _build(Placement, table, f"placements.{name}.")
        config = dataclasses.replace(config, placements=named)
    return config


def _aggregates(tables: Any) -> list[Aggregate]:
    """Those that every configuration has, unless one of the name is given, and the given ones."""
    if not isinstance(tables, list | tuple):
        raise ConfigError(f"aggregate: expected [[aggregate]] tables, got {tables!r}")
    given = []
    for number, table in enumerate(tables, 1):
        missing = [name for name in ("name", "kind") if name not in table]
        if missing:
            raise ConfigError(f"aggregate: number {number} has no {missing[0]}")
        given.append(_build(Aggregate, table, f"aggregate.{table['name']}."))
    names = {aggregate.name: aggregate for aggregate in given}
    rest = [aggregate for aggregate in AGGREGATES if aggregate.name not in names]
    # The two are held against each other, so they count the same.
    for one, other in (("trending", "usual"), ("usual", "trending")):
        if (told := names.get(one)) and told.kind == "decayed_count":
            rest = [
                dataclasses.replace(a, types=told.types, once=told.once) if a.name == other else a
                for a in rest
            ]
    return [*rest, *given]


def nearest(name: str, known: list[str]) -> str:
    """'; did you mean x?' or '', for error texts."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""


def _check_names(where: str, what: str, names: tuple[str, ...], known: list[str]) -> None:
    for name in names:
        if name not in known:
            raise ConfigError(f"{where}: unknown {what} {name!r}{nearest(name, known)}")


def _build(cls: type[Any], data: Any, where: str) -> Any:
    if not isinstance(data, dict):
        raise ConfigError(f"{where.rstrip('.')}: expected a table, got {data!r}")
    hints = get_type_hints(cls)
    values = {}
    for name, value in data.items():
        if name not in hints:
            raise ConfigError(f"{where}{name}: unknown setting{nearest(name, list(hints))}")
        kind = hints[name]
        nested = dataclasses.is_dataclass(kind)
        values[name] = (
            _build(kind, value, f"{where}{name}.") if nested else _check(kind, value, where + name)
        )
    return cls(**values)


def _check(kind: Any, value: Any, where: str) -> Any:
    origin = get_origin(kind)
    if isinstance(value, Aggregate):  # was checked when it was made
        return value
    if origin is Literal:
        if value not in get_args(kind):
            allowed = ", ".join(map(str, get_args(kind)))
            raise ConfigError(f"{where}: {value!r} is not one of {allowed}")
        return value
    if origin in (Union, UnionType):  # with None, which no file can say
        return None if value is None else _check(get_args(kind)[0], value, where)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise ConfigError(f"{where}: expected a list, got {value!r}")
        return tuple(_check(get_args(kind)[0], v, where) for v in value)
    if origin is dict:
        if not isinstance(value, dict):
            raise ConfigError(f"{where}: expected a table, got {value!r}")
        return {k: _check(get_args(kind)[1], v, f"{where}.{k}") for k, v in value.items()}
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind:
        raise ConfigError(f"{where}: expected {kind.__name__}, got {value!r}")
    if kind is float and not math.isfinite(value):
        raise ConfigError(f"{where}: must be a number, got {value!r}")
    if kind in (int, float) and value < 0 and "weights" not in where:
        raise ConfigError(f"{where}: must not be negative, got {value!r}")
    if kind is int and value == 0 and not {where, where.partition(".")[0]} & MAY_BE_ZERO:
        raise ConfigError(f"{where}: must be at least 1")
    return value
