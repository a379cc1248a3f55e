"""Ranking: one table of named features over candidates, and a forest that learned from them."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numba import njit
from numpy.typing import NDArray

from recsys.bundle import Bundle
from recsys.config import Config
from recsys.models import continuations, forest
from recsys.models.popularity import POPULARITY
from recsys.models.tally import best, capacity, slot
from recsys.retrieval import Candidates, Parts, Profile, Ranked, joint_fold_in, retrieve

Rows = NDArray[np.int32]
Floats = NDArray[np.float32]
Longs = NDArray[np.int64]
Places = NDArray[np.intp]

LOOK_BACK = 6  # last items of the session that candidates are compared with
NEVER = 50.0  # events since an item was touched, where it was not

# Features that are computed for all candidates at once, in the order of `_columns`.
COLUMN: dict[str, int] = {
    name: k
    for k, name in enumerate(
        (
            "session_cosine",
            "last_cosine",
            "second_cosine",
            "highest_cosine",
            "share_after_last",
            "share_after_second",
            "links_from_session",
            "next_share",
            "next_but_one_share",
            "before_share",
            "alike_next_share",
            "alike_next_but_one_share",
            "alike_next",
            "times_touched",
            "events_since_touched",
            "events_since_first_touched",
            "led_to_last",
            "followed_last",
            "popularity",
            "late_popularity",
            "recent_popularity",
            "rise",
            "age",
            "freshness",
            "events",
            "distinct_items",
            "repeats",
            "late_repeats",
            "run",
            "events_since_last_visit",
            "last_popularity",
        )
    )
}
COLUMNS = len(COLUMN)

# Likewise, of the session as a whole, in the order of `_basket`, where the order of its events is
# ignored; where it is kept the last items say more, and a click must not wait for them.
BASKET: dict[str, int] = {
    name: k
    for k, name in enumerate(
        (
            "whole_knn",
            "whole_knn_mean",
            "whole_links",
            "whole_knn_highest",
            "whole_votes",
            "whole_cosine",
            "own_weight",
            "own_place",
        )
    )
}
BASKETS = len(BASKET)
VOTERS = 500  # sessions that vote for what goes with the whole of this one ...
VOTE_AGE = np.float32(5)  # ... and the exponent over the share of sessions after them


@dataclass(frozen=True, slots=True)
class Context:
    """What features are functions of.

    columns: float32 [COLUMNS, n], what is computed for all candidates at once, see `_columns`.
    basket: float32 [BASKET, n], likewise, see `_basket`; without rows where the order is kept.
    """

    bundle: Bundle
    who: Profile
    candidates: Candidates
    columns: Floats
    basket: Floats

    def column(self, feature: str) -> Floats:
        inside = feature in COLUMN
        values: Floats = self.columns[COLUMN[feature]] if inside else self.basket[BASKET[feature]]
        return values

    @classmethod
    def of(cls, bundle: Bundle, who: Profile, candidates: Candidates) -> "Context":
        past, settings = bundle.continuations, bundle.config.continuations
        columns = _columns(
            candidates.rows,
            who.sequence,
            len(who.live[0]),
            bundle.session_embedding.item_vectors,
            who.taste,
            bundle.transitions.neighbours,
            bundle.transitions.shares,
            past.trail,
            past.starts,
            past.places,
            settings.context,
            settings.decay,
            bundle.popularity.signs,
        )
        if bundle.config.session.order != "ignored":
            return cls(bundle, who, candidates, columns, columns[:0])
        items, sessions = bundle.item_knn, bundle.session_knn
        basket = _basket(
            candidates.rows,
            who.live[0],
            who.past[0],
            who.past[1],
            bundle.history.items[bundle.history.of(who.user)],
            items.neighbours,
            items.similarities,
            bundle.session_embedding.item_vectors,
            sessions.indptr,
            sessions.items,
            sessions.starts,
            sessions.sessions,
            sessions.session_weights,
            sessions.match_weights,
        )
        return cls(bundle, who, candidates, columns, basket)


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


def own_place(c: Context) -> Floats:
    """Other items that the known user last touched after the candidate; -1 where they never did."""
    return c.column("own_place")


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


def _score(source: str) -> Feature:
    def score(c: Context) -> Floats | float:
        k = c.candidates.asked(source)
        return 0.0 if k is None else c.candidates.scores[k]

    score.__doc__ = f"Score of {source} over its best, 0 where it did not propose the item."
    return score


def _rank(source: str) -> Feature:
    def rank(c: Context) -> Floats | float:
        k = c.candidates.asked(source)
        # A placement may not ask a source: it has not proposed the item then, as the forest knows.
        missing = float(getattr(c.bundle.config.retrieval, source))
        return missing if k is None else c.candidates.ranks[k]

    rank.__doc__ = f"Rank in {source}, from 0; its number of candidates where not proposed."
    return rank


def _named(*features: Feature) -> dict[str, Feature]:
    return {feature.__name__: feature for feature in features}


LEARNED_SOURCES = (
    "transitions",
    "session_knn",
    "session_embedding",
    "item_knn",
    "item_knn_past",
    "own",
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
    "user": _named(past_items, fold_in_score, own_weight, own_place),
}

# Every feature is one function and one entry; a bundle names those its ranker was trained on.
FEATURES: dict[str, Feature] = {
    **{f"{source}_score": _score(source) for source in LEARNED_SOURCES},
    **{f"{source}_rank": _rank(source) for source in LEARNED_SOURCES},
    **{name: feature for group in GROUPS.values() for name, feature in group.items()},
}


def features_of(config: Config) -> tuple[str, ...]:
    """The features that a ranker is trained on."""
    told = config.session.order == "ignored"
    return tuple(name for name in FEATURES if told or name not in BASKET)


def source_features(source: str) -> frozenset[str]:
    """Names of the features that only say what one source thinks."""
    return frozenset({f"{source}_score", f"{source}_rank"} & FEATURES.keys())


def feature_table(bundle: Bundle, who: Profile, candidates: Candidates) -> Floats:
    """The features a bundle's ranker knows, float32 [features, candidates], in its order."""
    names = tuple(bundle.facts.features)
    context, plan = Context.of(bundle, who, candidates), _plan(names, candidates.sources)
    table = np.empty((len(names), len(candidates.rows)), dtype=np.float32)
    for block, taken in zip(
        (context.columns, context.basket, candidates.scores, candidates.ranks),
        plan.taken,
        strict=True,
    ):
        _place(table, block, taken)
    for k, feature in plan.others:
        table[k] = feature(context)
    return table


@dataclass(frozen=True, slots=True)
class Plan:
    """How a table is filled: at once from blocks, and the other features one by one.

    taken: intp [rows of a block], where each goes in the table, -1 for nowhere; the blocks are the
    columns and the basket of the context, and scores and ranks of the asked sources.
    """

    taken: tuple[Places, Places, Places, Places]
    others: tuple[tuple[int, Feature], ...]


@lru_cache
def _plan(names: tuple[str, ...], sources: tuple[str, ...]) -> Plan:
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
    others = tuple((k, FEATURES[name]) for name, k in place.items() if name not in filled)
    return Plan((columns, basket, scores, ranks), others)


@njit(cache=True)
def _place(table: Floats, block: Floats, into: Places) -> None:
    """Rows of a block into those of a table; -1 for nowhere."""
    for row in range(len(block)):
        if into[row] >= 0:
            table[into[row]] = block[row]


def uses_ranker(bundle: Bundle, who: Profile) -> bool:
    """The forest ranks when there is one and it learned from visitors of whom as much is known."""
    if not len(bundle.forest.leaves):
        return False
    return bool(len(who.sequence) or (len(who.past[0]) and bundle.facts.openings))


def rank(bundle: Bundle, who: Profile, n: int, out: Rows, sources: tuple[str, ...] = ()) -> Ranked:
    """The candidates of the sources (empty: all), ranked by the forest.

    n, out: that many candidates are not among the rows that may not be shown, ascending.
    """
    candidates = retrieve(bundle, who, n, out, sources)
    table = feature_table(bundle, who, candidates)
    return Ranked(
        candidates.rows,
        forest.scores(bundle.forest, table),
        Parts(candidates.sources, candidates.scores),
        Parts(tuple(bundle.facts.features), table),
    )


@njit(cache=True)
def _columns(
    rows: Rows,
    sequence: Rows,
    distinct: int,
    vectors: Floats,
    taste: Floats,
    neighbours: Rows,
    shares: Floats,
    trail: Rows,
    starts: Longs,
    places: Rows,
    context: int,
    decay: float,
    signs: Floats,
) -> Floats:
    """The features of COLUMN for rows (ascending), float32 [COLUMN, rows]."""
    columns = np.zeros((COLUMNS, len(rows)), np.float32)
    recent = sequence[:LOOK_BACK]
    keys, at = _slots(rows)
    _cosines(columns[0:4], vectors, rows, recent, taste)
    _links(columns[4:7], neighbours, shares, recent, keys, at)
    if len(sequence):
        continuations.count(
            columns[7:13], trail, starts, places, sequence, rows, keys, at, context, decay
        )
    _touched(columns[13:18], rows, sequence)
    for n in range(len(rows)):
        for sign in range(signs.shape[1]):
            columns[18 + sign, n] = signs[rows[n], sign]
    if len(sequence):
        _shape(columns[24:30], sequence, distinct)
        columns[30] = signs[sequence[0], POPULARITY]
    return columns


@njit(cache=True)
def _basket(
    rows: Rows,
    live: Rows,
    past: Rows,
    past_weights: Floats,
    history: Rows,
    neighbours: Rows,
    similarities: Floats,
    vectors: Floats,
    indptr: Longs,
    items: Rows,
    starts: Longs,
    sessions: Rows,
    session_weights: Floats,
    match_weights: Floats,
) -> Floats:
    """The features of BASKET for rows (ascending), float32 [BASKET, rows].

    live: distinct items of the session. history: of the known user, latest first.
    """
    basket = np.zeros((BASKETS, len(rows)), np.float32)
    keys, at = _slots(rows)
    if len(live):
        _near(basket[0:4], neighbours, similarities, live, keys, at)
        votes = basket[4]
        _vote(
            votes,
            indptr,
            items,
            starts,
            sessions,
            session_weights,
            match_weights,
            live,
            keys,
            at,
        )
        votes /= max(votes.max(), np.float32(1e-9))
        if len(vectors):
            total = np.zeros(vectors.shape[1], np.float32)
            for row in live:
                total += vectors[row]
            for n in range(len(rows)):
                basket[5, n] = np.dot(vectors[rows[n]], total) / np.float32(len(live))
    for k in range(len(past)):
        found = slot(keys, past[k])
        if keys[found] == past[k]:
            basket[6, at[found]] = past_weights[k]
    basket[7] = -1
    for place in range(len(history)):
        found = slot(keys, history[place])
        if keys[found] == history[place]:
            basket[7, at[found]] = place
    return basket


@njit(cache=True)
def _near(
    out: Floats, neighbours: Rows, similarities: Floats, live: Rows, keys: Rows, at: Rows
) -> None:
    """Summed similarities over the highest sum and over the number of items, share of the items
    that are near, and the highest similarity.

    keys, at: of `_slots`.
    """
    for item in live:
        for j in range(neighbours.shape[1]):
            near = neighbours[item, j]
            if near < 0:
                break
            found = slot(keys, near)
            if keys[found] == near:
                similarity = similarities[item, j]
                out[1, at[found]] += similarity
                out[2, at[found]] += 1
                out[3, at[found]] = max(out[3, at[found]], similarity)
    out[0] = out[1] / max(out[1].max(), np.float32(1e-9))
    out[1:3] /= np.float32(len(live))


@njit(cache=True)
def _vote(
    out: Floats,
    indptr: Longs,
    items: Rows,
    starts: Longs,
    sessions: Rows,
    session_weights: Floats,
    match_weights: Floats,
    live: Rows,
    keys: Rows,
    at: Rows,
) -> None:
    """Votes of the VOTERS sessions that share most with all of live.

    keys, at: of `_slots`.
    """
    total = 0
    for item in live:
        total += starts[item + 1] - starts[item]
    names = np.full(capacity(total), -1, np.int32)
    similarity = np.zeros(len(names), np.float32)
    used = np.empty(total, np.int32)
    n = 0
    for item in live:
        for j in range(starts[item], starts[item + 1]):
            found = slot(names, sessions[j])
            if names[found] == -1:
                names[found] = sessions[j]
                used[n] = found
                n += 1
            similarity[found] += match_weights[item]
    used = used[:n]
    for entry in used:
        session = names[entry]
        late = np.exp(VOTE_AGE * np.float32(session / len(indptr) - 1))
        similarity[entry] *= session_weights[session] * late
    voters, votes = best(used, similarity[used], VOTERS)
    for k in range(len(voters)):
        session = names[voters[k]]
        for p in range(indptr[session], indptr[session + 1]):
            found = slot(keys, items[p])
            if keys[found] == items[p]:
                out[at[found]] += votes[k]


@njit(cache=True)
def _slots(rows: Rows) -> tuple[Rows, Rows]:
    """Where each row stands among rows, by `slot`: keys, and the places of what they hold."""
    keys = np.full(capacity(len(rows)), -1, np.int32)
    at = np.empty(len(keys), np.int32)
    for n in range(len(rows)):
        found = slot(keys, rows[n])
        keys[found] = rows[n]
        at[found] = n
    return keys, at


@njit(cache=True, fastmath=True)
def _cosines(out: Floats, vectors: Floats, rows: Rows, recent: Rows, taste: Floats) -> None:
    """Inner products of rows with taste, the last item and the one before, and the highest with
    one of the recent ones; -2 where there is none."""
    out[1:] = -2
    if len(vectors) == 0:
        for place in range(min(2, len(recent))):
            out[1 + place] = out[3] = 0
        return
    against = np.empty((len(recent), vectors.shape[1]), np.float32)
    for place in range(len(recent)):
        against[place] = vectors[recent[place]]
    for n in range(len(rows)):
        own = vectors[rows[n]]
        product = np.float32(0)
        for j in range(len(own)):
            product += own[j] * taste[j]
        out[0, n] = product
        for place in range(len(recent)):
            product = np.float32(0)
            for j in range(len(own)):
                product += own[j] * against[place, j]
            if place < 2:
                out[1 + place, n] = product
            out[3, n] = max(out[3, n], product)


@njit(cache=True)
def _links(
    out: Floats, neighbours: Rows, shares: Floats, recent: Rows, keys: Rows, at: Rows
) -> None:
    """Share last -> row, second last -> row, and how many recent items lead to row.

    keys, at: of `_slots`.
    """
    for place in range(len(recent)):
        for j in range(neighbours.shape[1]):
            near = neighbours[recent[place], j]
            if near < 0:
                break
            found = slot(keys, near)
            if keys[found] == near:
                out[2, at[found]] += 1
                if place < 2:
                    out[place, at[found]] = shares[recent[place], j]


@njit(cache=True)
def _touched(out: Floats, rows: Rows, sequence: Rows) -> None:
    """Events of the session on each row, events after the last of them, events from the first on,
    and how often the row came right before and right after an earlier visit of the last item."""
    out[1] = NEVER
    for place in range(len(sequence) - 1, -1, -1):
        at = np.searchsorted(rows, sequence[place])
        if at == len(rows) or rows[at] != sequence[place]:
            continue
        if out[0, at] == 0:
            out[2, at] = place + 1
        out[0, at] += 1
        out[1, at] = place
        if place > 1 and sequence[place - 1] == sequence[0]:
            out[3, at] += 1
        if place < len(sequence) - 1 and sequence[place + 1] == sequence[0]:
            out[4, at] += 1


@njit(cache=True)
def _shape(out: Floats, sequence: Rows, distinct: int) -> None:
    """Events of the session, distinct items, repeats, repeats among the last four events, events on
    the last item in a row, and events since it was touched before (0: never)."""
    last, count = sequence[0], len(sequence)
    late = 0
    for place in range(min(4, count)):
        for earlier in range(place + 1, count):
            if sequence[earlier] == sequence[place]:
                late += 1
                break
    run = 1
    while run < count and sequence[run] == last:
        run += 1
    visit = 0
    for place in range(1, count):
        if sequence[place] == last:
            visit = place
            break
    out[0], out[1], out[2] = count, distinct, count - distinct
    out[3], out[4], out[5] = late, run, visit
