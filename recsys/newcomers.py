"""Newcomers: items that a bundle does not know, as candidates beside those that it does.

What the stream says of them stands for what training would. They are proposed where visitors came
to them from the last items of a session, and where the session itself did; their vector in the
session embedding is folded in from the items that visitors went on to. The ranker meets them in
training as it does in traffic: as items of a log's tail that its head does not hold.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from recsys.aggregates import Aggregates
from recsys.bundle import Bundle
from recsys.columns import LOOK_BACK, NEVER, cosines, touched
from recsys.config import Aggregate, RetrievalConfig
from recsys.features import GROUPS, LEARNED_SOURCES, live_values
from recsys.retrieval import Candidates, Floats, Mask, Profile, Rows, told

CO_VIEWED = "co_viewed_now"
OWN = 20  # last items of a session of which those that the bundle does not know are candidates
TINY = 1e-9

# Which of some items, by id, may be shown.
Shows = Callable[[Sequence[str]], Mask]

# Features of an item that nothing is known of, where they are not 0. Besides, what did not propose
# it gives it the rank of what it did not propose.
NEUTRAL = {"events_since_touched": NEVER, "age": 1.0, "freshness": 1.0, "own_place": -1.0}
# Features that are alike for all candidates.
SHARED = (GROUPS["session"].keys() | GROUPS["user"].keys()) - {"fold_in_score"}


@dataclass(frozen=True, slots=True)
class Newcomers:
    """names: ids, ascending. table: float32 [features, names], as of the other candidates. shares:
    float32, how far visitors came to them from the session's items, over the best of any candidate.
    """

    names: tuple[str, ...]
    table: Floats
    shares: Floats


def newcomers(
    bundle: Bundle, who: Profile, candidates: Candidates, table: Floats, shows: Shows | None = None
) -> Newcomers | None:
    """Those for a visitor; ``None`` where there are none. table: the features of the candidates.

    shows: only these.
    """
    found = told(bundle, who, CO_VIEWED)
    wanted = bundle.config.retrieval.newcomers and who.trail and len(candidates.rows)
    if not found or not wanted:
        return None
    state, aggregate = found
    if not state.aligned(bundle.items).unknown:
        return None
    numbers, shares = _proposed(bundle, who, state, aggregate)
    names = [state.names["item"][number] for number in numbers.tolist()]
    if names and shows:
        kept = np.flatnonzero(shows(names))
        numbers, shares, names = numbers[kept], shares[kept], [names[k] for k in kept.tolist()]
    if not names:
        return None
    k = candidates.asked(CO_VIEWED)
    theirs = np.zeros(1, np.float32) if k is None else candidates.scores[k] * candidates.tops[k]
    best = np.float32(max(float(theirs.max()), float(shares.max()), TINY))
    values = _values(bundle, who, names, numbers, state, aggregate)
    if k is not None:
        ranks = (theirs > shares[:, None]).sum(axis=1).astype(np.float32)
        ranks[shares <= 0] = bundle.config.retrieval.co_viewed_now
        values[f"{CO_VIEWED}_score"] = shares / best
        values[f"{CO_VIEWED}_rank"] = ranks
    own = _table(bundle, table, values, len(names))
    # By name: numbers are in order of arrival, which is another one in a replay.
    order = np.array(sorted(range(len(names)), key=names.__getitem__))
    return Newcomers(tuple(names[k] for k in order.tolist()), own[:, order], (shares / best)[order])


def _proposed(
    bundle: Bundle, who: Profile, state: Aggregates, aggregate: Aggregate
) -> tuple[Rows, Floats]:
    """Items by number, ascending, and how far visitors came to them from the last items."""
    config, others = bundle.config, state.aligned(bundle.items).others
    recent = state.numbers_of(who.trail[: config.transitions.last_items])
    numbers, shares = state.shares_after(aggregate, recent, config.transitions.decay, others)
    value = dict(zip(numbers.tolist(), shares.tolist(), strict=True))
    if len(value) > (most := config.retrieval.newcomers or 0):
        names = state.names["item"]
        best = sorted(value, key=lambda number: (-value[number], names[number]))
        value = {number: value[number] for number in best[:most]}
    own = state.numbers_of(list(dict.fromkeys(who.trail[:OWN])))
    own = own[own >= 0]
    own = own[others[own] == own]
    for number in own[state.heard_of(own)].tolist():
        value.setdefault(number, 0.0)
    ascending = sorted(value)
    return np.array(ascending, np.int32), np.array([value[k] for k in ascending], np.float32)


def _values(
    bundle: Bundle,
    who: Profile,
    names: list[str],
    numbers: Rows,
    state: Aggregates,
    aggregate: Aggregate,
) -> dict[str, Floats | float]:
    """The features that say something of them."""
    values = live_values(bundle, who, numbers, beyond=True)
    places = {name: k for k, name in enumerate(names)}
    trail = np.array([places.get(item, -1) for item in who.trail], np.int32)
    # The last item is what others are compared with, so it needs a place even where it is known.
    last = len(names) if trail[0] < 0 else trail[0]
    trail[[item == who.trail[0] for item in who.trail]] = last
    touches = np.zeros((5, len(names)), np.float32)
    touched(touches, np.arange(len(names), dtype=np.int32), trail)
    values.update(zip(GROUPS["touches"], touches, strict=True))
    vectors, recent = bundle.session_embedding.item_vectors, who.sequence[:LOOK_BACK]
    own = state.folded(aggregate, numbers, state.aligned(bundle.items).rows, vectors)
    both = np.concatenate([own, vectors[recent]]) if len(vectors) else vectors
    ends = np.arange(len(names) + len(recent), dtype=np.int32)
    found = np.zeros((4, len(names)), np.float32)
    cosines(found, both, ends[: len(names)], ends[len(names) :], who.taste)
    values.update(zip(GROUPS["cosines"], found, strict=True))
    return values


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
