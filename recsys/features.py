"""Features: what a ranker is told of a candidate, each a named function."""

from collections.abc import Callable, Collection
from functools import lru_cache

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from recsys.aggregates import for_everybody, ranking_by, risen
from recsys.assortment import UNKNOWN, highest, labels_of, price_now, values_beside
from recsys.baskets import BASKET, basket_columns
from recsys.bundle import Bundle
from recsys.columns import COLUMN, columns_of
from recsys.config import Aggregate, Config
from recsys.retrieval import Candidates, Profile, joint_fold_in
from recsys.session import VISITS

Rows = NDArray[np.int32]
Floats = NDArray[np.float32]
Longs = NDArray[np.int64]

NO_VALUE = -1.0  # what the ranker is told where an item has no last value


class Context(Struct, frozen=True):
    """What features are functions of.

    columns: float32 [COLUMNS, n], what is computed for all candidates at once, see `columns_of`.
    basket: float32 [BASKET, n], likewise, see `basket_columns`; no rows where the order is kept.
    live: by name of a feature, what the stream says now. beside: likewise, what candidates are and
    cost beside the session's items.
    """

    bundle: Bundle
    who: Profile
    candidates: Candidates
    columns: Floats
    basket: Floats
    live: dict[str, Floats | float]
    beside: dict[str, Floats | float]

    def column(self, feature: str) -> Floats:
        inside = feature in COLUMN
        values: Floats = self.columns[COLUMN[feature]] if inside else self.basket[BASKET[feature]]
        return values

    @classmethod
    def of(cls, bundle: Bundle, who: Profile, candidates: Candidates) -> "Context":
        past, settings = bundle.continuations, bundle.config.continuations
        columns = columns_of(
            candidates.rows,
            who.sequence,
            len(who.live[0]),
            bundle.session_embedding.item_vectors,
            who.taste,
            bundle.transitions.starts,
            bundle.transitions.neighbours,
            bundle.transitions.shares,
            past.trail,
            past.starts,
            past.places,
            settings.context,
            settings.decay,
            bundle.popularity.signs,
        )
        live = live_values(bundle, who, candidates.rows)
        beside = values_beside(bundle, who, candidates.rows)
        if bundle.config.session.order != "ignored":
            return cls(bundle, who, candidates, columns, columns[:0], live, beside)
        items, sessions = bundle.item_knn, bundle.session_knn
        history, theirs = bundle.history, bundle.history.of(who.user)
        visits = history.visits_of(who.user)
        basket = basket_columns(
            candidates.rows,
            who.live[0],
            who.past[0],
            who.past[1],
            history.items[theirs],
            history.weights[theirs],
            len(visits),
            *_voting(bundle, who, visits),
            items.starts,
            items.neighbours,
            items.similarities,
            bundle.session_embedding.item_vectors,
            sessions.indptr,
            sessions.items,
            sessions.starts,
            sessions.sessions,
            sessions.positions,
            sessions.session_weights,
            sessions.match_weights,
            bundle.popularity.kinds,
        )
        return cls(bundle, who, candidates, columns, basket, live, beside)


def _voting(bundle: Bundle, who: Profile, visits: Rows) -> tuple[Rows, Longs, Rows]:
    """The user's latest sessions, which vote: rows of those of the log, and where the items of each
    later one begin, int64 [n + 1], in rows of items.

    visits: those of the log, latest first.
    """
    # What the log tells of already votes once.
    late = [visit.items for visit in who.session.past.visits if visit.moment > bundle.cutoff]
    rows = bundle.items.rows([item for items in late for item in items])
    ends = np.cumsum([0, *map(len, late)])
    known = np.concatenate([[0], np.cumsum(rows >= 0)])
    return visits[: VISITS - len(late)], known[ends], rows[rows >= 0]


Feature = Callable[[Context], Floats | float]


def session_cosine(c: Context) -> Floats:
    """Cosine of candidate and session in the session embedding: the strongest single sign."""
    return c.column("session_cosine")


def last_cosine(c: Context) -> Floats:
    """Cosine to the last item: what is on the screen weighs beyond its part in the session."""
    return c.column("last_cosine")


def second_cosine(c: Context) -> Floats:
    """Cosine to the last item but one; -2 in a session of one."""
    return c.column("second_cosine")


def highest_cosine(c: Context) -> Floats:
    """Highest cosine to one of the last items: a session may hold several interests."""
    return c.column("highest_cosine")


def share_after_last(c: Context) -> Floats:
    """Share of the last item's transitions that lead here."""
    return c.column("share_after_last")


def share_after_second(c: Context) -> Floats:
    """Share of the last but one item's transitions that lead here."""
    return c.column("share_after_second")


def links_from_session(c: Context) -> Floats:
    """How many of the last items have a transition here: agreement of several."""
    return c.column("links_from_session")


def next_share(c: Context) -> Floats:
    """Share of the last item's past events after which the candidate came right away: no softening
    by distance, so it tells a step from a neighbourhood."""
    return c.column("next_share")


def next_but_one_share(c: Context) -> Floats:
    """Share of the last item's past events after which the candidate came next but one."""
    return c.column("next_but_one_share")


def before_share(c: Context) -> Floats:
    """Share of the candidate's past events after which the last item came right away: the step from
    its side."""
    return c.column("before_share")


def alike_next_share(c: Context) -> Floats:
    """As next_share, each past event counting by how alike the way to it was: who came to the item
    the same way goes on the same way."""
    return c.column("alike_next_share")


def alike_next_but_one_share(c: Context) -> Floats:
    """As next_but_one_share, each past event counting by how alike the way to it was."""
    return c.column("alike_next_but_one_share")


def alike_next(c: Context) -> Floats:
    """Past events after which the candidate came right away, summed by how alike the way to them
    was: how much a share stands on."""
    return c.column("alike_next")


def times_touched(c: Context) -> Floats:
    """Events of this session on the candidate: repeats are a fifth to a third of next clicks."""
    return c.column("times_touched")


def events_since_touched(c: Context) -> Floats:
    """Events of this session after the last on the candidate; 50 where there was none."""
    return c.column("events_since_touched")


def events_since_first_touched(c: Context) -> Floats:
    """Events of this session from the candidate's first on; 0 where there was none."""
    return c.column("events_since_first_touched")


def led_to_last(c: Context) -> Floats:
    """How often the candidate came right before an earlier visit of the last item: people go back
    and forth."""
    return c.column("led_to_last")


def followed_last(c: Context) -> Floats:
    """How often the candidate came right after an earlier visit of the last item."""
    return c.column("followed_last")


def popularity(c: Context) -> Floats:
    """log(1 + summed weights) over the whole log: the prior."""
    return c.column("popularity")


def late_popularity(c: Context) -> Floats:
    """log(1 + events) in the last tenth of the log."""
    return c.column("late_popularity")


def recent_popularity(c: Context) -> Floats:
    """log(1 + events) in the last fiftieth of the log."""
    return c.column("recent_popularity")


def rise(c: Context) -> Floats:
    """Recent over overall popularity, as a difference of logarithms: what is coming up."""
    return c.column("rise")


def age(c: Context) -> Floats:
    """Where the item first appeared in the log, 0 (start) to 1 (end): how new it is."""
    return c.column("age")


def freshness(c: Context) -> Floats:
    """Where the item was last touched in the log, 0 to 1: whether it is still alive."""
    return c.column("freshness")


def events(c: Context) -> Floats:
    """Events in the session."""
    return c.column("events")


def distinct_items(c: Context) -> Floats:
    """Distinct items in the session."""
    return c.column("distinct_items")


def repeats(c: Context) -> Floats:
    """Events that repeat an item: some visitors come back, others wander."""
    return c.column("repeats")


def late_repeats(c: Context) -> Floats:
    """Of the last four events, those on an item touched before: whether it is going back now."""
    return c.column("late_repeats")


def run(c: Context) -> Floats:
    """Events on the last item in a row: whoever stays with it does not wander."""
    return c.column("run")


def events_since_last_visit(c: Context) -> Floats:
    """Events since the last item was touched before; 0 where it was not."""
    return c.column("events_since_last_visit")


def last_popularity(c: Context) -> Floats:
    """log(1 + summed weights) of the last item: a rare one says more."""
    return c.column("last_popularity")


def session_knn_support(c: Context) -> float:
    """Votes for the best of session-kNN: how much it knows about such sessions."""
    k = c.candidates.asked("session_knn")
    return 0.0 if k is None else float(c.candidates.tops[k])


def whole_knn(c: Context) -> Floats:
    """Item-kNN's similarities to all items of the session, summed, over the highest sum: what goes
    with a basket, whichever source proposed it."""
    return c.column("whole_knn")


def whole_knn_mean(c: Context) -> Floats:
    """The same sum over the number of items: how much goes with the basket at all."""
    return c.column("whole_knn_mean")


def whole_links(c: Context) -> Floats:
    """Share of the session's items that have the candidate among their neighbours."""
    return c.column("whole_links")


def whole_knn_highest(c: Context) -> Floats:
    """The highest of those similarities: one item of a basket may be enough."""
    return c.column("whole_knn_highest")


def whole_votes(c: Context) -> Floats:
    """Votes, over the highest, of the sessions that share most with the whole of this one."""
    return c.column("whole_votes")


def whole_cosine(c: Context) -> Floats:
    """Mean cosine to the session's items in the session embedding."""
    return c.column("whole_cosine")


def own_weight(c: Context) -> Floats:
    """Interest in the candidate in earlier sessions, as it is: once or ten times."""
    return c.column("own_weight")


def own_share(c: Context) -> Floats:
    """Interest of the known user in the candidate over the number of their sessions: whether it is
    in every one."""
    return c.column("own_share")


def own_place(c: Context) -> Floats:
    """Other items that the known user last touched after the candidate; -1 where they never did."""
    return c.column("own_place")


def past_knn(c: Context) -> Floats:
    """Mean item-kNN similarity to the items of earlier sessions, by their weight: what goes with
    all that is known of a visitor, whichever source proposed it."""
    return c.column("past_knn")


def past_links(c: Context) -> Floats:
    """Share of the items of earlier sessions that have the candidate among their neighbours."""
    return c.column("past_links")


def own_votes(c: Context) -> Floats:
    """Votes of the known user's own earlier sessions: for all of its items, what one shares with
    the whole of this session, by idf, over the root of its length. The one sign that joins the two:
    who buys this again buys what they bought beside it."""
    return c.column("own_votes")


def own_votes_share(c: Context) -> Floats:
    """The same over the highest of the candidates: what of the past this session is about."""
    return c.column("own_votes_share")


def own_votes_highest(c: Context) -> Floats:
    """The highest of those votes: one earlier session may be enough."""
    return c.column("own_votes_highest")


def own_votes_mean(c: Context) -> Floats:
    """The votes over the number of own sessions that hold the candidate: what is bought in every
    one is bought whatever else is."""
    return c.column("own_votes_mean")


def strangers_share(c: Context) -> Floats:
    """Share of the item's events that are of strangers: they and customers want other things."""
    return c.column("strangers_share")


def late_with_strangers(c: Context) -> Floats:
    """log(1 + events of strangers) in the last tenth of the log."""
    return c.column("late_with_strangers")


def late_in_long(c: Context) -> Floats:
    """log(1 + events in long sessions) in the last tenth of the log: what big baskets hold."""
    return c.column("late_in_long")


def usual_length(c: Context) -> Floats:
    """Mean logarithm of the lengths of the sessions that the item is in."""
    return c.column("usual_length")


def latest_popularity(c: Context) -> Floats:
    """log(1 + events), each counting less the more came after it: the rise of the last days."""
    return c.column("latest_popularity")


def past_sessions(c: Context) -> Floats:
    """Sessions of the known user in the log; 0 for a stranger."""
    return c.column("past_sessions")


def past_interest(c: Context) -> Floats:
    """Interest of the known user in all items of the log, summed: by the sessions, how much they
    take at a time."""
    return c.column("past_interest")


def past_items(c: Context) -> float:
    """Items of the known user's past: 0 for a stranger."""
    return float(len(c.who.past[0]))


def fold_in_score(c: Context) -> Floats | float:
    """Score by the embedding's fold-in of session and past, over its best; 0 for a stranger."""
    if not len(c.who.past[0]):
        return 0.0
    vector = joint_fold_in(c.bundle, c.who)
    scores: Floats = c.bundle.embedding.item_factors[c.candidates.rows] @ vector
    return scores / max(float(scores.max(initial=0)), 1e-9)


def category_share(c: Context) -> Floats | float:
    """Share of the session's events whose item is in a category of the candidate."""
    return c.beside["category_share"]


def price_level(c: Context) -> Floats | float:
    """Logarithm of the candidate's price over what the session's items cost as they were touched
    (geometric mean): how dear it is for this visit. NO_LEVEL where one is not known."""
    return c.beside["price_level"]


def price_change(c: Context) -> Floats | float:
    """Logarithm of the candidate's price now over its usual one: whether it is on offer."""
    return c.beside["price_change"]


def _score(source: str) -> Feature:
    def score(c: Context) -> Floats | float:
        k = c.candidates.asked(source)
        return 0.0 if k is None else c.candidates.scores[k]

    score.__doc__ = f"Score of {source} over its best, 0 where it did not propose the item."
    return score


def _rank(source: str) -> Feature:
    def rank(c: Context) -> Floats | float:
        k = c.candidates.asked(source)
        # A placement may not ask a source: it has not proposed the item then, as the ranker knows.
        missing = float(getattr(c.bundle.config.retrieval, source))
        return missing if k is None else c.candidates.ranks[k]

    rank.__doc__ = f"Rank in {source}, from 0; its number of candidates where not proposed."
    return rank


def live_value(aggregate: Aggregate) -> Feature:
    """An aggregate as a feature."""

    def value(c: Context) -> Floats | float:
        return c.live[f"live_{aggregate.name}"]

    value.__doc__ = (
        f"The aggregate {aggregate.name}: of a pair, from the last item to this one; of "
        "categories, the highest of the candidate's."
    )
    return value


def live_share(aggregate: Aggregate) -> Feature:
    """A co_count as a share."""

    def share(c: Context) -> Floats | float:
        return c.live[f"live_{aggregate.name}_share"]

    share.__doc__ = f"Share of the last item's steps that lead here, by {aggregate.name}."
    return share


def live_rise(c: Context) -> Floats | float:
    """How far ``trending`` is above what ``usual`` lets expect, in standard deviations of chance:
    what comes up now, whether it is much or little."""
    return c.live["live_rise"]


def live_values(
    bundle: Bundle, who: Profile, rows: Rows, *, beyond: bool = False
) -> dict[str, Floats | float]:
    """What the aggregates that the ranker is told of say of candidates.

    rows: ascending, of the bundle; beyond: numbers of items that it does not know.
    """
    found: dict[str, Floats | float] = {}
    declared, state = ranking_by(bundle.config), who.session.aggregates
    if not declared:
        return found
    # Without a store nothing is known: no counts, and ratios as well.
    found = dict.fromkeys(live_features(bundle.config.aggregate), 0.0)
    for aggregate in declared:
        if not for_everybody(aggregate):
            own = who.session.own.get(aggregate.name, 0.0)
            found[f"live_{aggregate.name}"] = NO_VALUE if np.isnan(own) else own
    if state is None:
        return found
    known: dict[str, NDArray[np.float64]] = {}
    aligned = state.aligned(bundle.items)
    told = rows if beyond else aligned.numbers[rows]
    row_of = aligned.others if beyond else aligned.rows
    labels = None  # looked up once, where an aggregate is of categories
    for aggregate in declared:
        name = f"live_{aggregate.name}"
        if aggregate.key == "item":
            values = known[aggregate.name] = state.values(aggregate, told)
            if aggregate.kind == "last_value":
                values[np.isnan(values)] = NO_VALUE
            found[name] = values.astype(np.float32)
        elif aggregate.key == "category" and not beyond:
            labels = labels or labels_of(bundle, state, rows)
            found[name] = highest(state, aggregate, labels, NO_VALUE)
        elif aggregate.key == "category":
            value = float(state.values(aggregate, UNKNOWN)[0])
            found[name] = NO_VALUE if np.isnan(value) else value
        elif aggregate.key == "pair" and who.trail:
            last = state.numbers["item"].get(who.trail[0], -1)
            values, total = state.steps_to(aggregate, last, row_of, rows)
            found[name] = values.astype(np.float32)
            found[f"{name}_share"] = (values / max(total, 1e-9)).astype(np.float32)
    if "live_rise" in found:
        found["live_rise"] = risen(state, told, known).astype(np.float32)
    return found


def _named(*features: Feature) -> dict[str, Feature]:
    return {feature.__name__: feature for feature in features}


LEARNED_SOURCES = (
    "transitions",
    "session_knn",
    "session_embedding",
    "item_knn",
    "item_knn_past",
    "own",
    "co_viewed_now",
)

# Features that no single source gives, in groups that an ablation takes out together.
GROUPS: dict[str, dict[str, Feature]] = {
    "cosines": _named(session_cosine, last_cosine, second_cosine, highest_cosine),
    "links": _named(share_after_last, share_after_second, links_from_session),
    "continuations": _named(
        next_share,
        next_but_one_share,
        before_share,
        alike_next_share,
        alike_next_but_one_share,
        alike_next,
    ),
    "touches": _named(
        times_touched, events_since_touched, events_since_first_touched, led_to_last, followed_last
    ),
    "popularity": _named(popularity, late_popularity, recent_popularity, rise, age, freshness),
    "session": _named(
        events,
        distinct_items,
        repeats,
        late_repeats,
        run,
        events_since_last_visit,
        last_popularity,
        session_knn_support,
    ),
    "whole": _named(
        whole_knn, whole_knn_mean, whole_links, whole_knn_highest, whole_votes, whole_cosine
    ),
    "past": _named(past_knn, past_links, own_weight, own_share, own_place),
    "votes": _named(own_votes, own_votes_share, own_votes_highest, own_votes_mean),
    "kinds": _named(
        strangers_share, late_with_strangers, late_in_long, usual_length, latest_popularity
    ),
    "user": _named(past_items, past_sessions, past_interest, fold_in_score),
    "terms": _named(category_share, price_level, price_change),
}

# Every feature is one function and one entry; a bundle names those its ranker was trained on.
FEATURES: dict[str, Feature] = {
    **{f"{source}_score": _score(source) for source in LEARNED_SOURCES},
    **{f"{source}_rank": _rank(source) for source in LEARNED_SOURCES},
    **{name: feature for group in GROUPS.values() for name, feature in group.items()},
}


@lru_cache
def live_features(declared: tuple[Aggregate, ...]) -> dict[str, Feature]:
    """The features that are made from aggregates, by name: a group of its own."""
    found: dict[str, Feature] = {}
    for aggregate in declared:
        if aggregate.ranking:
            found[f"live_{aggregate.name}"] = live_value(aggregate)
            if aggregate.key == "pair":
                found[f"live_{aggregate.name}_share"] = live_share(aggregate)
    if {"live_trending", "live_usual"} <= found.keys():
        found["live_rise"] = live_rise
    return found


def groups_of(config: Config) -> dict[str, dict[str, Feature]]:
    """The groups of features that there may be with a configuration."""
    return {**GROUPS, "live": live_features(config.aggregate)}


def features_of(config: Config, columns: Collection[str] = ()) -> tuple[str, ...]:
    """The features that a ranker is trained on. columns: of the log that it learns from."""
    off = frozenset[str]() if config.session.order == "ignored" else frozenset(BASKET)
    if "category" not in columns:
        off |= {"category_share"}
    if "price" not in columns:
        off |= {"price_level", "price_change"}
    if price_now(config) is None:
        off |= {"price_change"}
    for source in LEARNED_SOURCES:
        if not getattr(config.retrieval, source):
            off |= source_features(source)
    return tuple(name for name in [*FEATURES, *live_features(config.aggregate)] if name not in off)


def source_features(source: str) -> frozenset[str]:
    """Names of the features that only say what one source thinks."""
    return frozenset({f"{source}_score", f"{source}_rank"} & FEATURES.keys())
