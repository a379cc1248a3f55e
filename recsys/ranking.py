"""Ranking: one table of named features over candidates, and a forest that learned from them."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from recsys.bundle import Bundle
from recsys.models import forest
from recsys.models import popularity as signs
from recsys.models.tally import capacity, slot
from recsys.retrieval import Candidates, Profile, Ranked, joint_fold_in, retrieve

Rows = NDArray[np.int32]
Floats = NDArray[np.float32]

LOOK_BACK = 6  # last items of the session that candidates are compared with
NEVER = 50.0  # events since an item was touched, where it was not


@dataclass(frozen=True, slots=True)
class Context:
    """What features are functions of; the shared blocks are computed once per request.

    taste: float32 [n], cosine of each candidate to the session. affinity: float32 [n, LOOK_BACK],
    to its last items, -2 where there is none. links: float32 [n, 4], see `_links`.
    touched: float32 [n, 5], see `_touched`. signs: float32 [n, SIGNS], see `Popularity`.
    """

    bundle: Bundle
    who: Profile
    candidates: Candidates
    taste: Floats
    affinity: Floats
    links: Floats
    touched: Floats
    signs: Floats

    @classmethod
    def of(cls, bundle: Bundle, who: Profile, candidates: Candidates) -> "Context":
        rows, recent = candidates.rows, who.sequence[:LOOK_BACK]
        taste, affinity = _cosines(bundle.session_embedding.item_vectors, rows, recent, who.taste)
        table = bundle.transitions
        return cls(
            bundle,
            who,
            candidates,
            taste,
            affinity,
            _links(table.neighbours, table.shares, rows, recent),
            _touched(rows, who.sequence),
            bundle.popularity.signs[rows],
        )


Feature = Callable[[Context], Floats | float]


def session_cosine(c: Context) -> Floats:
    """Cosine of candidate and session in the session embedding: the strongest single sign."""
    return c.taste


def last_cosine(c: Context) -> Floats:
    """Cosine to the last item: what is on the screen weighs beyond its part in the session."""
    return c.affinity[:, 0]


def second_cosine(c: Context) -> Floats:
    """Cosine to the last item but one; -2 in a session of one."""
    return c.affinity[:, 1]


def highest_cosine(c: Context) -> Floats:
    """Highest cosine to one of the last items: a session may hold several interests."""
    highest: Floats = c.affinity.max(axis=1)
    return highest


def share_after_last(c: Context) -> Floats:
    """Share of the last item's transitions that lead here."""
    return c.links[:, 0]


def share_after_second(c: Context) -> Floats:
    """Share of the last but one item's transitions that lead here."""
    return c.links[:, 1]


def share_back(c: Context) -> Floats:
    """Share of the candidate's transitions that lead to the last item: the link from its side."""
    return c.links[:, 2]


def links_from_session(c: Context) -> Floats:
    """How many of the last items have a transition here: agreement of several."""
    return c.links[:, 3]


def times_touched(c: Context) -> Floats:
    """Events of this session on the candidate: repeats are a fifth to a third of next clicks."""
    return c.touched[:, 0]


def events_since_touched(c: Context) -> Floats:
    """Events of this session after the last on the candidate; 50 where there was none."""
    return c.touched[:, 1]


def events_since_first_touched(c: Context) -> Floats:
    """Events of this session from the candidate's first on; 0 where there was none."""
    return c.touched[:, 2]


def led_to_last(c: Context) -> Floats:
    """How often the candidate came right before an earlier visit of the last item: people go back
    and forth."""
    return c.touched[:, 3]


def followed_last(c: Context) -> Floats:
    """How often the candidate came right after an earlier visit of the last item."""
    return c.touched[:, 4]


def popularity(c: Context) -> Floats:
    """log(1 + summed weights) over the whole log: the prior."""
    return c.signs[:, signs.POPULARITY]


def late_popularity(c: Context) -> Floats:
    """log(1 + events) in the last tenth of the log."""
    return c.signs[:, signs.LATE_POPULARITY]


def recent_popularity(c: Context) -> Floats:
    """log(1 + events) in the last fiftieth of the log."""
    return c.signs[:, signs.RECENT_POPULARITY]


def rise(c: Context) -> Floats:
    """Recent over overall popularity, as a difference of logarithms: what is coming up."""
    return c.signs[:, signs.RISE]


def age(c: Context) -> Floats:
    """Where the item first appeared in the log, 0 (start) to 1 (end): how new it is."""
    return c.signs[:, signs.AGE]


def freshness(c: Context) -> Floats:
    """Where the item was last touched in the log, 0 to 1: whether it is still alive."""
    return c.signs[:, signs.FRESHNESS]


def events(c: Context) -> float:
    """Events in the session."""
    return float(len(c.who.sequence))


def distinct_items(c: Context) -> float:
    """Distinct items in the session."""
    return float(len(c.who.live[0]))


def repeats(c: Context) -> float:
    """Events that repeat an item: some visitors come back, others wander."""
    return float(len(c.who.sequence) - len(c.who.live[0]))


def late_repeats(c: Context) -> float:
    """Of the last four events, those on an item touched before: whether it is going back now."""
    sequence = c.who.sequence.tolist()
    return float(sum(row in sequence[k + 1 :] for k, row in enumerate(sequence[:4])))


def run(c: Context) -> float:
    """Events on the last item in a row: whoever stays with it does not wander."""
    sequence = c.who.sequence.tolist()
    return float(next((k for k, row in enumerate(sequence) if row != sequence[0]), len(sequence)))


def events_since_last_visit(c: Context) -> float:
    """Events since the last item was touched before; 0 where it was not."""
    last, *before = c.who.sequence.tolist() or [-1]
    return float(before.index(last) + 1) if last in before else 0.0


def last_popularity(c: Context) -> float:
    """log(1 + summed weights) of the last item: a rare one says more."""
    if not len(c.who.sequence):
        return 0.0
    return float(c.bundle.popularity.signs[c.who.sequence[0], signs.POPULARITY])


def session_knn_support(c: Context) -> float:
    """Votes for the best of session-kNN: how much it knows about such sessions."""
    return c.candidates.tops.get("session_knn", 0.0)


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
        return c.candidates.scores.get(source, 0.0)

    score.__doc__ = f"Score of {source} over its best, 0 where it did not propose the item."
    return score


def _rank(source: str) -> Feature:
    def rank(c: Context) -> Floats | float:
        ranks = c.candidates.ranks.get(source)
        # A placement may not ask a source: it has not proposed the item then, as the forest knows.
        return getattr(c.bundle.config.retrieval, source) if ranks is None else ranks

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
    "links": _named(share_after_last, share_after_second, share_back, links_from_session),
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
    "user": _named(past_items, fold_in_score),
}

# Every feature is one function and one entry; a bundle names those its ranker was trained on.
FEATURES: dict[str, Feature] = {
    **{f"{source}_score": _score(source) for source in LEARNED_SOURCES},
    **{f"{source}_rank": _rank(source) for source in LEARNED_SOURCES},
    **{name: feature for group in GROUPS.values() for name, feature in group.items()},
}


def source_features(source: str) -> frozenset[str]:
    """Names of the features that only say what one source thinks."""
    return frozenset({f"{source}_score", f"{source}_rank"} & FEATURES.keys())


def feature_table(bundle: Bundle, who: Profile, candidates: Candidates) -> Floats:
    """The features a bundle's ranker knows, float32 [features, candidates], in its order."""
    names = bundle.facts.features
    context = Context.of(bundle, who, candidates)
    table = np.empty((len(names), len(candidates.rows)), dtype=np.float32)
    for k, name in enumerate(names):
        table[k] = FEATURES[name](context)
    return table


def uses_ranker(bundle: Bundle, who: Profile) -> bool:
    """The forest ranks when there is one and it learned from visitors of whom as much is known."""
    if not len(bundle.forest.roots):
        return False
    return bool(len(who.sequence) or (len(who.past[0]) and bundle.facts.openings))


def rank(bundle: Bundle, who: Profile, at_least: int, sources: tuple[str, ...] = ()) -> Ranked:
    """The candidates of the sources (empty: all), ranked by the forest."""
    candidates = retrieve(bundle, who, at_least, sources)
    table = feature_table(bundle, who, candidates)
    return Ranked(
        candidates.rows,
        forest.scores(bundle.forest, table),
        candidates.scores,
        dict(zip(bundle.facts.features, table, strict=True)),
    )


@njit(cache=True, fastmath=True)
def _cosines(vectors: Floats, rows: Rows, recent: Rows, taste: Floats) -> tuple[Floats, Floats]:
    """Inner products of rows with taste [rows], and with recent rows [rows, LOOK_BACK].

    0 and -2 where there is none.
    """
    of_taste = np.zeros(len(rows), np.float32)
    of_recent = np.full((len(rows), LOOK_BACK), np.float32(-2))
    if len(vectors) == 0:
        of_recent[:, : len(recent)] = 0
        return of_taste, of_recent
    against = np.empty((len(recent), vectors.shape[1]), np.float32)
    for place in range(len(recent)):
        against[place] = vectors[recent[place]]
    for n in range(len(rows)):
        own = vectors[rows[n]]
        product = np.float32(0)
        for j in range(len(own)):
            product += own[j] * taste[j]
        of_taste[n] = product
        for place in range(len(recent)):
            product = np.float32(0)
            for j in range(len(own)):
                product += own[j] * against[place, j]
            of_recent[n, place] = product
    return of_taste, of_recent


@njit(cache=True)
def _links(neighbours: Rows, shares: Floats, rows: Rows, recent: Rows) -> Floats:
    """Share last -> row, second last -> row, row -> last, and how many recent items lead to row."""
    links = np.zeros((len(rows), 4), np.float32)
    width = neighbours.shape[1]
    keys = np.full(capacity(len(rows)), -1, np.int32)
    places = np.empty(len(keys), np.int32)
    for n in range(len(rows)):
        at = slot(keys, rows[n])
        keys[at] = rows[n]
        places[at] = n
    for place in range(len(recent)):
        for j in range(width):
            near = neighbours[recent[place], j]
            if near < 0:
                break
            at = slot(keys, near)
            if keys[at] == near:
                links[places[at], 3] += 1
                if place < 2:
                    links[places[at], place] = shares[recent[place], j]
    if len(recent):
        for n in range(len(rows)):
            for j in range(width):
                if neighbours[rows[n], j] == recent[0]:
                    links[n, 2] = shares[rows[n], j]
                    break
    return links


@njit(cache=True)
def _touched(rows: Rows, sequence: Rows) -> Floats:
    """Events of the session on each row, events after the last of them, events from the first on,
    and how often the row came right before and right after an earlier visit of the last item."""
    touched = np.zeros((len(rows), 5), np.float32)
    touched[:, 1] = NEVER
    for place in range(len(sequence) - 1, -1, -1):
        at = np.searchsorted(rows, sequence[place])
        if at == len(rows) or rows[at] != sequence[place]:
            continue
        if touched[at, 0] == 0:
            touched[at, 2] = place + 1
        touched[at, 0] += 1
        touched[at, 1] = place
        if place > 1 and sequence[place - 1] == sequence[0]:
            touched[at, 3] += 1
        if place < len(sequence) - 1 and sequence[place + 1] == sequence[0]:
            touched[at, 4] += 1
    return touched
