"""Newcomers: items that a bundle does not know, as candidates beside those that it does.

What the stream says of them stands for what training would. They are proposed where visitors came
to them from the last items of a session, and where the session itself did; their vector in the
session embedding is folded in from the items that visitors went on to. Of those that nobody has
touched yet, what the shop says of them gives a vector, and the nearest to the session are proposed.
The ranker meets them in training as it does in traffic: as items of a log's tail that its head does
not hold.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from recsys.aggregates import Aggregates
from recsys.assortment import values_beside
from recsys.bundle import Bundle
from recsys.columns import LOOK_BACK, NEVER, cosines, touched
from recsys.config import Aggregate, RetrievalConfig
from recsys.features import GROUPS, LEARNED_SOURCES, live_values
from recsys.retrieval import Candidates, Floats, Mask, Profile, told

CO_VIEWED = "co_viewed_now"
OWN = 20  # last items of a session of which those that the bundle does not know are candidates
TINY = 1e-9
SPARE = 4  # times as many of the nearest are looked at as are candidates
# Why an item is among them: visitors came to it, or the shop has told of it.
SOURCES = ("newcomers", "unseen")

# Which of some items, by id, may be shown.
Shows = Callable[[Sequence[str]], Mask]

# Features of an item that nothing is known of, where they are not 0. Besides, what did not propose
# it gives it the rank of what it did not propose.
NEUTRAL = {"events_since_touched": NEVER, "age": 1.0, "freshness": 1.0, "own_place": -1.0}
# Features that are alike for all candidates.
SHARED = (GROUPS["session"].keys() | GROUPS["user"].keys()) - {"fold_in_score"}


@dataclass(frozen=True, slots=True)
class Newcomers:
    """names: ids, ascending. table: float32 [features, names], as of the other candidates. parts:
    float32 [SOURCES, names], how far visitors came to them from the session's items, over the best
    of any candidate; and of those that only the shop speaks of, how near they are.
    """

    names: tuple[str, ...]
    table: Floats
    parts: Floats


def newcomers(
    bundle: Bundle,
    who: Profile,
    candidates: Candidates,
    table: Floats,
    shows: Shows | None = None,
    sources: Collection[str] = SOURCES,
) -> Newcomers | None:
    """Those for a visitor; ``None`` where there are none. table: the features of the candidates.

    shows: only these. sources: which of SOURCES are asked.
    """
    if not who.trail or not len(candidates.rows):
        return None
    wanted = bundle.config.retrieval.newcomers and "newcomers" in sources
    stream = told(bundle, who, CO_VIEWED) if wanted else None
    share_of = _heard_of(bundle, who, *stream) if stream else {}
    near = _near(bundle, who) if "unseen" in sources else {}
    names = list(dict.fromkeys([*share_of, *near]))
    if names and shows:
        names = [name for name, kept in zip(names, shows(names), strict=True) if kept]
    others = [name for name in names if name not in share_of]
    names = [name for name in names if name in share_of]
    names += others[: bundle.config.retrieval.unseen]
    if not names:
        return None
    shares = np.array([share_of.get(name, 0.0) for name in names], np.float32)
    k = candidates.asked(CO_VIEWED)
    theirs = np.zeros(1, np.float32) if k is None else candidates.scores[k] * candidates.tops[k]
    best = np.float32(max(float(theirs.max()), float(shares.max()), TINY))
    values = _values(bundle, who, names, stream)
    if k is not None:
        ranks = (theirs > shares[:, None]).sum(axis=1).astype(np.float32)
        ranks[shares <= 0] = bundle.config.retrieval.co_viewed_now
        values[f"{CO_VIEWED}_score"] = shares / best
        values[f"{CO_VIEWED}_rank"] = ranks
    own = _table(bundle, table, values, len(names))
    # By name: they came in an order that is another one in a replay.
    order = np.array(sorted(range(len(names)), key=names.__getitem__))
    parts = np.zeros((len(SOURCES), len(names)), np.float32)
    for place, name in enumerate(names):
        if name in share_of:
            parts[0, place] = shares[place] / best + TINY
        else:
            parts[1, place] = near[name]
    return Newcomers(tuple(names[k] for k in order.tolist()), own[:, order], parts[:, order])


def _heard_of(
    bundle: Bundle, who: Profile, state: Aggregates, aggregate: Aggregate
) -> dict[str, float]:
    """Items that the stream knows, and how far visitors came to them from the last items."""
    aligned = state.aligned(bundle.items)
    if not aligned.unknown:
        return {}
    config, others, names = bundle.config, aligned.others, state.names["item"]
    recent = state.numbers_of(who.trail[: config.transitions.last_items])
    numbers, shares = state.shares_after(aggregate, recent, config.transitions.decay, others)
    value = dict(zip(numbers.tolist(), shares.tolist(), strict=True))
    if len(value) > (most := config.retrieval.newcomers or 0):
        best = sorted(value, key=lambda number: (-value[number], names[number]))
        value = {number: value[number] for number in best[:most]}
    own = state.numbers_of(list(dict.fromkeys(who.trail[:OWN])))
    own = own[own >= 0]
    own = own[others[own] == own]
    for number in own[state.heard_of(own)].tolist():
        value.setdefault(number, 0.0)
    return {names[number]: share for number, share in value.items()}


def _near(bundle: Bundle, who: Profile) -> dict[str, float]:
    """Unseen items whose attributes are nearest to the session, with their cosines; more than are
    candidates, as some may not be shown."""
    return who.unseen.nearest(who.taste, SPARE * bundle.config.retrieval.unseen)


def _values(
    bundle: Bundle,
    who: Profile,
    names: list[str],
    stream: tuple[Aggregates, Aggregate] | None,
) -> dict[str, Floats | float]:
    """The features that say something of them."""
    places = {name: k for k, name in enumerate(names)}
    trail = np.array([places.get(item, -1) for item in who.trail], np.int32)
    # The last item is what others are compared with, so it needs a place even where it is known.
    last = len(names) if trail[0] < 0 else trail[0]
    trail[[item == who.trail[0] for item in who.trail]] = last
    touches = np.zeros((5, len(names)), np.float32)
    touched(touches, np.arange(len(names), dtype=np.int32), trail)
    values: dict[str, Floats | float] = dict(zip(GROUPS["touches"], touches, strict=True))
    values.update(_live(bundle, who, names))
    vectors, recent = bundle.session_embedding.item_vectors, who.sequence[:LOOK_BACK]
    own = who.unseen.vectors_of(names)
    if stream:
        state, aggregate = stream
        rows = state.aligned(bundle.items).rows
        folded = state.folded(aggregate, state.numbers_of(names), rows, vectors)
        followed = np.flatnonzero(folded.any(axis=1))
        own[followed] = folded[followed]
    both = np.concatenate([own, vectors[recent]]) if len(vectors) else vectors
    ends = np.arange(len(names) + len(recent), dtype=np.int32)
    found = np.zeros((4, len(names)), np.float32)
    cosines(found, both, ends[: len(names)], ends[len(names) :], who.taste)
    values.update(zip(GROUPS["cosines"], found, strict=True))
    if len(vectors) and len(who.live[0]):
        values["whole_cosine"] = own @ vectors[who.live[0]].mean(axis=0)
    return values


def _live(bundle: Bundle, who: Profile, names: list[str]) -> dict[str, Floats | float]:
    """What the aggregates say of them, and what they cost beside the session's items."""
    state = who.session.aggregates
    # -1 of what the stream has not heard of.
    numbers = state.numbers_of(names) if state else np.full(len(names), -1, np.int32)
    order = np.argsort(numbers, kind="stable")
    back = np.argsort(order, kind="stable")
    found = live_values(bundle, who, numbers[order], beyond=True)
    found |= values_beside(bundle, who, numbers[order], beyond=True)
    return {
        name: value[back] if isinstance(value, np.ndarray) else value
        for name, value in found.items()
    }


def _table(bundle: Bundle, theirs: Floats, values: dict[str, Floats | float], count: int) -> Floats:
    """Their features in the order of the bundle's ranker. theirs: those of the other candidates."""
    place, neutral, shared = _plan(tuple(bundle.facts.features), bundle.config.retrieval)
    table = np.empty((len(theirs), count), np.float32)
    table[:] = neutral[:, None]
    table[shared] = theirs[shared, :1]
    for name, value in values.items():
        if (k := place.get(name)) is not None:
            table[k] = value
    return table


@lru_cache
def _plan(
    names: tuple[str, ...], config: RetrievalConfig
) -> tuple[dict[str, int], Floats, NDArray[np.intp]]:
    """Where each feature stands, what it is of an item that nothing is known of, and where those
    stand that are alike for all candidates."""
    missing = {f"{source}_rank": float(getattr(config, source)) for source in LEARNED_SOURCES}
    known = {**missing, **NEUTRAL}
    neutral = np.array([known.get(name, 0.0) for name in names], np.float32)
    shared = np.array([k for k, name in enumerate(names) if name in SHARED], np.intp)
    return {name: k for k, name in enumerate(names)}, neutral, shared
