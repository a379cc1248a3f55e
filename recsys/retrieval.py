"""Retrieval: from a bundle and a session to the candidates worth ranking."""

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache

import numpy as np
from msgspec import Struct
from numba import njit
from numpy.typing import NDArray

from recsys.aggregates import Aggregates, ranking_by
from recsys.bundle import Bundle
from recsys.config import Aggregate, RetrievalConfig
from recsys.models import item_knn, session_embedding, session_knn, transitions
from recsys.models.embedding import fold_in, fold_in_all
from recsys.session import Session
from recsys.unseen import Unseen

Rows = NDArray[np.int32]
Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]
Scored = tuple[Rows, Floats]  # rows and their scores

NO_ROWS: Rows = np.zeros(0, dtype=np.int32)
# Where fewer allowed candidates than SPARE for each place are left, and of all at most the share
# LEFT, others are searched for, DEPTH more than places. Of a half, that is worth a hundredth of the
# hits; more spare ones bring nothing.
SPARE, LEFT, DEPTH = 2, 0.8, 40
NOTHING: Scored = (NO_ROWS, np.zeros(0, dtype=np.float32))


class Profile(Struct, frozen=True):
    """A visitor in the rows of one bundle.

    sequence: int32, the session's items newest first, repeats included, the anchor item before all.
    live: distinct rows of this session and the anchor, with weights (float32, > 0).
    past: the same of earlier live sessions and the bundle's history.
    fresh: something live was found (of this session or earlier live ones).
    user: the known user's row, -1 for a stranger. session: what was resolved.
    taste: float32 [d], the unit vector of the sequence in the session embedding; without one, that
    of what attributes say of its items, zero where they say nothing. trail: ids of the sequence,
    those that the bundle does not know among them. unseen: items that nobody may have touched yet.
    """

    sequence: Rows
    taste: Floats
    live: Scored
    past: Scored
    fresh: bool
    user: int
    session: Session
    trail: list[str]
    unseen: Unseen


class Candidates(Struct, frozen=True):
    """What the asked sources propose.

    rows: int32 [n], ascending. scores: float32 [sources, n], a source's scores over its best, 0
    where it did not propose the row. ranks: float32 [sources, n], 0 for its best, its number of
    candidates where not proposed. tops: float32 [sources], its best score as it was, 0 where it
    proposed nothing.
    """

    sources: tuple[str, ...]
    rows: Rows
    scores: Floats
    ranks: Floats
    tops: Floats

    def asked(self, source: str) -> int | None:
        """Where a source stands among those asked."""
        return self.sources.index(source) if source in self.sources else None


class Parts(Struct, frozen=True):
    """What scores were made from. values: float32 [names, n]."""

    names: tuple[str, ...]
    values: Floats


class Ranked(Struct, frozen=True):
    """Candidates with their final scores. rows: int32 [n], ascending. scores: [n].

    parts: the highest of an item names the reason for it. made_of: what each score was made from.
    beyond: ids of the last rows, which are behind those of the bundle, see `recsys.newcomers`.
    """

    rows: Rows
    scores: NDArray[np.floating]
    parts: Parts
    made_of: Parts
    beyond: tuple[str, ...] = ()


def profile(
    bundle: Bundle, session: Session, anchor: str | None = None, unseen: Unseen | None = None
) -> Profile:
    """Resolve a session against a bundle. unseen: by default those of the bundle's catalogue."""
    unseen = bundle.unseen if unseen is None else unseen
    if session.aggregates is None and not bundle.snapshot.empty:
        session = replace(session, aggregates=bundle.aggregates)
    current, past = session.current, session.past
    anchors = [anchor] if anchor else []
    names = [*anchors, *current.sequence, *past.items]
    rows = bundle.items.rows(names)
    touched = len(names) - len(past.items)
    sequence = rows[:touched]
    own = sequence[len(anchors) :]
    if len(current.items) < len(own):
        # Some came again. All stand in the sequence, so each id is looked up once.
        row_of = dict(zip(names[len(anchors) : touched], own.tolist(), strict=True))
        own = np.fromiter(map(row_of.__getitem__, current.items), np.int32, len(current.items))
    live = _known(own, current.weights)
    if anchor is not None:
        live = merge(_known(sequence[:1], np.ones(1, dtype=np.float32)), live)
    earlier = _known(rows[touched:], past.weights)
    user = int(bundle.users.rows([session.user_id])[0]) if session.user_id else -1
    sequence = sequence[sequence >= 0]
    if len(sequence):
        taste = session_embedding.session_vector(bundle.session_embedding, sequence)
    else:
        taste = unseen.taste(names[:touched])
    return Profile(
        sequence=sequence,
        taste=taste,
        live=live,
        past=merge(earlier, _history(bundle, user)) if user >= 0 else earlier,
        fresh=bool(len(live[0]) or len(earlier[0])),
        user=user,
        session=session,
        trail=names[:touched],
        unseen=unseen,
    )


def _transitions(bundle: Bundle, who: Profile, k: int) -> Scored:
    return transitions.propose(bundle.transitions, who.sequence, bundle.config.transitions, k)


def _session_knn(bundle: Bundle, who: Profile, k: int) -> Scored:
    return session_knn.propose(bundle.session_knn, who.sequence, bundle.config.session_knn, k)


def _session_embedding(bundle: Bundle, who: Profile, k: int, allowed: Mask | None = None) -> Scored:
    if not has_taste(who) or not len(bundle.session_index.factors):
        return NOTHING
    return bundle.session_index.search(who.taste, k, allowed)


def _embedding(bundle: Bundle, who: Profile, k: int, allowed: Mask | None = None) -> Scored:
    if not (len(who.live[0]) or len(who.past[0])):
        return NOTHING
    return bundle.index.search(joint_fold_in(bundle, who), k, allowed)


def _item_knn(bundle: Bundle, who: Profile, k: int) -> Scored:
    return item_knn.propose(bundle.item_knn, *who.live, k)


def _item_knn_past(bundle: Bundle, who: Profile, k: int) -> Scored:
    if not len(who.past[0]):
        return NOTHING
    return item_knn.propose(bundle.item_knn, *who.past, k)


def _own(_bundle: Bundle, who: Profile, k: int) -> Scored:
    return _best(*who.past, k)


def _recent(bundle: Bundle, _who: Profile, k: int) -> Scored:
    rows = bundle.popularity.recent_order[:k]
    return rows, bundle.popularity.recent[rows]


def _popular(bundle: Bundle, _who: Profile, k: int) -> Scored:
    rows = np.arange(min(k, len(bundle.items)), dtype=np.int32)
    return rows, bundle.popularity.counts[rows]


def _co_viewed_now(bundle: Bundle, who: Profile, k: int) -> Scored:
    found = told(bundle, who, "co_viewed_now")
    if not found or not who.trail:
        return NOTHING
    state, aggregate = found
    config = bundle.config.transitions
    recent = state.numbers_of(who.trail[: config.last_items])
    row_of = state.aligned(bundle.items).rows
    return _best(*state.shares_after(aggregate, recent, config.decay, row_of), k)


def _trending(bundle: Bundle, who: Profile, k: int) -> Scored:
    found = told(bundle, who, "trending")
    if not found:
        return NOTHING
    state, aggregate = found
    numbers, values = state.top(aggregate, k)
    rows = state.aligned(bundle.items).rows[numbers]
    return rows[rows >= 0], values[rows >= 0].astype(np.float32)


def told(bundle: Bundle, who: Profile, name: str) -> tuple[Aggregates, Aggregate] | None:
    """The aggregate that a source asks, and what the stream says; ``None`` without a store."""
    state = who.session.aggregates
    found = [a for a in ranking_by(bundle.config) if a.name == name] if state else []
    return (state, found[0]) if state and found else None


def has_taste(who: Profile) -> bool:
    """Whether something is known of the session's items, be it what the shop says of them."""
    return len(who.sequence) > 0 or bool(who.taste.any())


def is_heard_of(bundle: Bundle, who: Profile, *, followed: bool = False) -> bool:
    """Whether the stream knows an item of the session, be it new to the bundle; followed: and what
    came after it."""
    found = told(bundle, who, "co_viewed_now") if who.trail else None
    if not found or not bundle.config.retrieval.newcomers:
        return False
    state, aggregate = found
    recent = dict.fromkeys(who.trail[: bundle.config.transitions.last_items])
    numbers = state.numbers_of([*recent])
    if not followed and state.heard_of(numbers).any():
        return True
    return state.goes_on(aggregate, numbers)


# Every source is one function and one line here, and a number of candidates in RetrievalConfig.
SOURCES: dict[str, Callable[[Bundle, Profile, int], Scored]] = {
    "transitions": _transitions,
    "session_knn": _session_knn,
    "session_embedding": _session_embedding,
    "embedding": _embedding,
    "item_knn": _item_knn,
    "item_knn_past": _item_knn_past,
    "own": _own,
    "recent": _recent,
    "popular": _popular,
    "co_viewed_now": _co_viewed_now,
    "trending": _trending,
}
# Those worth asking only where nothing of the session is known, unless its order is ignored. Beside
# what order tells, popular items of late changed two lists in a thousand, for 6 us of each.
OF_OPENINGS = ("recent",)
# Those that can look among allowed rows alone, the better first.
SEARCHES: dict[str, Callable[[Bundle, Profile, int, Mask | None], Scored]] = {
    "session_embedding": _session_embedding,
    "embedding": _embedding,
}


def retrieve(
    bundle: Bundle,
    who: Profile,
    n: int,
    out: Rows = NO_ROWS,
    sources: tuple[str, ...] = (),
    allowed: Mask | None = None,
) -> Candidates:
    """The union of what each source proposes, and the session's own items.

    n: so many, where there are, may be shown: the most popular items fill up. out: rows that may
    not, ascending. sources: only these propose; empty: all. allowed: rows that may be shown, those
    that are out not among them; where too few are proposed, more of them are searched for. The
    candidates may hold others.
    """
    names, numbers = _asked(bundle.config.retrieval, sources)
    silent = _silent(bundle, who) if not sources else ()
    found = [
        NOTHING if name in silent else SOURCES[name](bundle, who, k)
        for name, k in zip(names, numbers.tolist(), strict=True)
    ]
    counts = np.array([len(rows) for rows, _ in found], dtype=np.int64)
    everything = np.concatenate([NOTHING[0], *(rows for rows, _ in found)])
    values = np.concatenate([NOTHING[1], *(scores for _, scores in found)])
    own = who.live[0]
    merged = _merged(NO_ROWS, own, everything, values, counts, numbers)
    if allowed is not None:
        left = int(np.count_nonzero(allowed[merged[0]]))
        searched = is_thin(left, len(merged[0]), n)
        if searched or left < n:
            more = among(bundle, who, n, allowed) if searched else popular_of(allowed, n)
            merged = _merged(more, own, everything, values, counts, numbers)
    elif len(merged[0]) < n + len(out):
        popular = np.arange(min(filling(out, n), len(bundle.items)), dtype=np.int32)
        merged = _merged(popular, own, everything, values, counts, numbers)
    return Candidates(names, *merged)


def _silent(bundle: Bundle, who: Profile) -> tuple[str, ...]:
    """Sources that are not asked beside all others."""
    if len(who.sequence) and bundle.config.session.order != "ignored":
        return OF_OPENINGS
    return ()


def among(bundle: Bundle, who: Profile, n: int, allowed: Mask) -> Rows:
    """At least n allowed rows where there are so many: those nearest to the visitor, then popular
    ones."""
    search = SEARCHES.get(best_search(bundle, who))
    rows = search(bundle, who, n + DEPTH, allowed)[0] if search else NO_ROWS
    if len(rows) >= n:
        return rows
    return np.concatenate([rows, popular_of(allowed, n)])


def is_thin(left: int, proposed: int, n: int) -> bool:
    """Whether so few of those proposed for n places are allowed that others are searched for."""
    return left < SPARE * n and left <= LEFT * proposed


def popular_of(allowed: Mask, n: int) -> Rows:
    """The n most popular allowed rows."""
    return np.flatnonzero(allowed)[:n].astype(np.int32)


def best_search(bundle: Bundle, who: Profile) -> str:
    """The source that searches best for a visitor; ``popular`` where nothing is known."""
    if has_taste(who) and len(bundle.session_index.factors):
        return "session_embedding"
    return "embedding" if len(who.live[0]) or len(who.past[0]) else "popular"


def filling(out: Rows, n: int) -> int:
    """How many of the most popular rows hold n that may be shown. out: rows that may not,
    ascending."""
    for row in out.tolist():  # as popularity descends
        if row >= n:
            break
        n += 1
    return n


@lru_cache
def _asked(
    config: RetrievalConfig, sources: tuple[str, ...]
) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """The sources that are on and among ``sources`` (empty: all), with how many each is asked for,
    int64."""
    on = {name: getattr(config, name) for name in SOURCES}
    names = tuple(name for name, k in on.items() if k and (not sources or name in sources))
    return names, np.array([on[name] for name in names], dtype=np.int64)


def alone(
    bundle: Bundle, who: Profile, source: str, at_least: int, allowed: Mask | None = None
) -> Ranked:
    """What one source proposes in its own order, then the most popular items.

    allowed: only of these rows; at_least so many of them where there are.
    """
    if allowed is None:
        found, values = SOURCES[source](bundle, who, at_least)
        filling = np.arange(min(at_least, len(bundle.items)), dtype=np.int32)
    else:
        found, values = alone_among(bundle, who, source, at_least, allowed)
        filling = np.flatnonzero(allowed)[:at_least].astype(np.int32)
    rows = np.unique(np.concatenate([filling, found]))
    scores = np.full(len(rows), values.min() - 1 if len(values) else 0, dtype=np.float32)
    scores[np.searchsorted(rows, found)] = values
    parts = Parts((source,), scores[None])
    return Ranked(rows, scores, parts, parts)


def alone_among(bundle: Bundle, who: Profile, source: str, k: int, allowed: Mask) -> Scored:
    """The best allowed rows of all that a source can propose."""
    if source in SEARCHES:
        return SEARCHES[source](bundle, who, k, allowed)
    return kept(SOURCES[source](bundle, who, len(bundle.items)), allowed, k)


def kept(scored: Scored, allowed: Mask, k: int | None = None) -> Scored:
    """The first k that are allowed."""
    places = np.flatnonzero(allowed[scored[0]])[:k]
    return scored[0][places], scored[1][places]


def joint_fold_in(bundle: Bundle, who: Profile) -> Floats:
    """The embedding's vector of session and past together, float32 [d]."""
    config = bundle.config.embedding
    rows = np.concatenate([who.live[0], who.past[0]])
    confidence = np.concatenate([who.live[1], who.past[1] * np.float32(config.history_weight)])
    rows, confidence = merge((rows, confidence), NOTHING)
    return fold_in(bundle.embedding, rows, confidence * np.float32(config.alpha))


def fold_in_users(bundle: Bundle, users: Rows, projected: Floats) -> Floats:
    """What :func:`joint_fold_in` gives for known users without a session, float32 [users, d].

    users: their rows. projected: of the bundle's embedding, see `recsys.models.embedding`.
    """
    config = bundle.config.embedding
    starts, entries = bundle.history.of_all(users, config.history_items)
    weights = np.log1p(bundle.history.weights[entries]) * np.float32(config.history_weight)
    confidence = weights * np.float32(config.alpha)
    rows = bundle.history.items[entries]
    return fold_in_all(bundle.embedding, projected, starts, rows, confidence)


def _known(rows: Rows, weights: Floats) -> Scored:
    if not len(rows):
        return NOTHING
    known = rows >= 0
    return rows[known], weights[known]


def _history(bundle: Bundle, user: int) -> Scored:
    """The latest items of a known user; repeated interest counts by its logarithm."""
    entries = bundle.history.of(user)
    start = entries.start or 0
    recent = slice(start, min(entries.stop, start + bundle.config.embedding.history_items))
    return bundle.history.items[recent], np.log1p(bundle.history.weights[recent])


def merge(first: Scored, second: Scored) -> Scored:
    """Distinct rows with summed weights, rows ascending."""
    if not len(first[0]) and not len(second[0]):
        return NOTHING
    rows = np.concatenate([first[0], second[0]])
    weights = np.concatenate([first[1], second[1]])
    distinct, inverse = np.unique(rows, return_inverse=True)
    return distinct, np.bincount(inverse, weights, minlength=len(distinct)).astype(np.float32)


def _best(rows: Rows, scores: Floats, k: int) -> Scored:
    if not len(rows):
        return NOTHING
    order = np.lexsort((rows, -scores))[:k]
    return rows[order], scores[order]


@njit(cache=True, nogil=True)
def _merged(
    filling: Rows,
    own: Rows,
    found: Rows,
    values: Floats,
    counts: NDArray[np.int64],
    missing: NDArray[np.int64],
) -> tuple[Rows, Floats, Floats, Floats]:
    """The union of filling rows, own rows and what the sources found, one after another.

    counts: rows found by each source. missing: the rank of what a source did not find. Returns the
    rows, ascending; every source's scores over its best and its ranks [sources, rows]; its best
    score.
    """
    everything = np.concatenate((filling, own, found))
    everything.sort()
    n = 0
    for k in range(len(everything)):
        if n == 0 or everything[n - 1] != everything[k]:
            everything[n] = everything[k]
            n += 1
    rows = everything[:n].copy()
    scores = np.zeros((len(counts), n), np.float32)
    ranks = np.empty((len(counts), n), np.float32)
    tops = np.zeros(len(counts), np.float32)
    start = 0
    for source in range(len(counts)):
        ranks[source] = missing[source]
        if counts[source]:
            tops[source] = values[start]
        top = max(tops[source], np.float32(1e-9))
        for rank in range(counts[source]):
            at = np.searchsorted(rows, found[start + rank])
            scores[source, at] = values[start + rank] / top
            ranks[source, at] = rank
        start += counts[source]
    return rows, scores, ranks, tops
