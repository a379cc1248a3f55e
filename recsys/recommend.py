"""The one prediction function: the API, the evaluation and the demo all call it."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from time import perf_counter_ns

import numpy as np
from msgspec import structs
from numpy.typing import NDArray

from recsys import blend, ranking, retrieval, rules, selection
from recsys.aggregates import Aggregates
from recsys.bundle import Bundle
from recsys.config import Config, Placement, nearest
from recsys.events import InputError
from recsys.filters import LEAST_FACTOR, MOST_FACTOR, Beyond, Filter, Masks
from recsys.newcomers import SOURCES, Shows
from recsys.session import Session
from recsys.unseen import Unseen

MAX_N = 1000
BESIDE = frozenset(SOURCES)  # reasons for items that the bundle does not know

Mask = NDArray[np.bool_]


class UnknownPlacementError(InputError):
    """The bundle's configuration has no placement of that name."""


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked for.

    item_id: the item on the page, an anchor that is never returned. diversity: 0 (by score alone)
    to 1 (as unlike as possible), ``None`` for the placement's own. allowed: bool [items], the
    bundle's rows that may be shown, ``None`` for all. boosts: rows that count for more or less,
    bool [items], and the factor, from 0.1 to 10, see `rules.boosted`. beyond: the same of items
    that the bundle does not know; without it these are shown where all are, and not boosted.
    unseen: those that nobody may have touched yet, ``None`` for the bundle's own catalogue's.
    """

    n: int = 20
    placement: str = "default"
    item_id: str | None = None
    exclude: tuple[str, ...] = ()
    diversity: float | None = None
    explain: bool = False
    allowed: Mask | None = field(default=None, repr=False)
    boosts: tuple[tuple[Mask, float], ...] = field(default=(), repr=False)
    beyond: Beyond | None = field(default=None, repr=False)
    unseen: Unseen | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Recommendation:
    """The answer: external ids, best first.

    scores: the ranking's own, descending; where diversity changed the order, in that order, so that
    they need not descend. reasons: the source that speaks most for each item. tier: how the answer
    was made: ``ranker``, ``session`` (the blend), ``batch`` or ``popular``. timings: microseconds
    per stage. features: with ``explain``, what each item's score was made from.
    """

    item_ids: list[str]
    scores: list[float]
    reasons: list[str]
    tier: str
    bundle: str
    timings: dict[str, float] = field(default_factory=dict)
    features: list[dict[str, float]] = field(default_factory=list)


def recommend(bundle: Bundle, session: Session, request: Request) -> Recommendation:
    """Rank what a bundle holds for what a session shows. Pure: no clock, no I/O.

    Fewer than n items come back only when fewer may be shown. Raises UnknownPlacementError, and
    InputError for a diversity or a boost's factor that is none, ValueError for a mask that is not
    the bundle's.
    """
    placement = placement_of(bundle.config, request.placement)
    diversity = _diversity(placement, request)
    _check_masks(bundle, request)
    depth = selection.window(request.n) if diversity else request.n
    clock = _Stopwatch()
    who = retrieval.profile(bundle, session, request.item_id, request.unseen)
    clock.lap("fold_in")
    out = rules.excluded(bundle, session, placement, who.user, _named(request))
    allowed = rules.showable(request.allowed, out)
    clock.lap("rules")
    shows = partial(_shown, bundle, session, placement, request)
    ranked = _ranked(bundle, who, placement, request.n, depth, out, allowed, shows)
    if request.boosts:
        ranked = _boosted(ranked, request, out)
    clock.lap("rank")
    # Rows ascend by popularity, so ties go to the more popular.
    best = selection.best(ranked.rows, ranked.scores, out, depth)
    if diversity:
        best = best[_diverse(bundle, ranked, best, diversity, request.n)]
    if placement.explore and ranked.beyond:
        share = math.ceil(placement.explore * request.n)
        best = selection.with_share(best, _unseen(who, ranked), share, request.n)
    answer = Recommendation(
        item_ids=_ids(bundle, ranked, best),
        scores=ranked.scores[best].tolist(),
        reasons=_reasons(ranked.parts, best),
        tier=_tier(bundle, who, placement),
        bundle=bundle.version,
        features=_explained(ranked.made_of, best) if request.explain else [],
    )
    clock.lap("select")
    answer.timings.update(clock.laps)
    return answer


def placement_of(config: Config, name: str) -> Placement:
    """The placement of that name. Raises UnknownPlacementError."""
    placement = config.placements.get(name)
    if placement is None:
        known = list(config.placements)
        raise UnknownPlacementError(
            f"unknown placement {name!r}{nearest(name, known)}; known: {', '.join(known)}"
        )
    return placement


def similar(
    bundle: Bundle,
    item_id: str,
    n: int = 20,
    allowed: Mask | None = None,
    beyond: Beyond | None = None,
    unseen: Unseen | None = None,
    aggregates: Aggregates | None = None,
) -> Recommendation:
    """Items near one item, of those allowed as in a Request. aggregates: what the stream says, by
    default what the bundle was told.

    Raises KeyError when neither the bundle nor the stream knows it, and attributes tell nothing.
    """
    nobody, asked = Session(aggregates=aggregates), similar_to(item_id, n, allowed, beyond, unseen)
    if item_id not in bundle.items:
        who = retrieval.profile(bundle, nobody, item_id, unseen)
        placement = placement_of(bundle.config, asked.placement)
        if not (retrieval.has_taste(who) or _is_heard_of(bundle, who, placement, followed=True)):
            raise KeyError(item_id)
    return recommend(bundle, nobody, asked)


def similar_to(
    item_id: str,
    n: int,
    allowed: Mask | None = None,
    beyond: Beyond | None = None,
    unseen: Unseen | None = None,
) -> Request:
    """What :func:`similar` asks for, for nobody."""
    return Request(
        n=n,
        item_id=item_id,
        placement="discover",
        allowed=allowed,
        beyond=beyond,
        unseen=unseen,
    )


def filled(
    answer: Recommendation,
    bundle: Bundle,
    session: Session,
    request: Request,
    masks: Masks,
    wanted: Filter | None = None,
) -> Recommendation:
    """The answer to a request; where it is shorter than n, followed by what the catalogue holds
    beyond the bundle, named last first.

    Nothing is known of these but what the shop says, so they come after all others, with the lowest
    score of the list and the reason ``catalogue``. wanted: the filter of which the request's
    ``allowed`` came.
    """
    lacking = request.n - len(answer.item_ids)
    if lacking <= 0:
        return answer
    placement = placement_of(bundle.config, request.placement)
    out = rules.excluded_ids(bundle, session, placement, _named(request))
    if not BESIDE.isdisjoint(answer.reasons):
        out.update(answer.item_ids)
    found = masks.unseen(bundle.items, wanted, lacking + len(out))
    more = [item for item in found if item not in out][:lacking]
    lowest = min(answer.scores, default=0.0)
    return dataclasses.replace(
        answer,
        item_ids=[*answer.item_ids, *more],
        scores=[*answer.scores, *[lowest] * len(more)],
        reasons=[*answer.reasons, *["catalogue"] * len(more)],
    )


def _named(request: Request) -> tuple[str, ...]:
    return (*request.exclude, request.item_id) if request.item_id else request.exclude


def _ranked(
    bundle: Bundle,
    who: retrieval.Profile,
    placement: Placement,
    n: int,
    depth: int,
    out: NDArray[np.int32],
    allowed: Mask | None,
    shows: Shows,
) -> retrieval.Ranked:
    """Candidates with scores, as the placement wants them ranked; n of them may be shown.

    depth: how many that may be shown a source alone is asked for; several together propose enough
    to choose from. out: rows that may not be shown, ascending. allowed: those that may, out not
    among them; ``None`` for all others. shows: which items that the bundle does not know may be.
    """
    if placement.ranking in retrieval.SOURCES:
        at_least = depth + len(out) if allowed is None else depth
        return retrieval.alone(bundle, who, placement.ranking, at_least, allowed)
    if _uses_ranker(bundle, who, placement):
        return ranking.rank(bundle, who, n, out, placement.sources, allowed, shows)
    return blend.rank(bundle, who, n, out, allowed)


def _shown(
    bundle: Bundle,
    session: Session,
    placement: Placement,
    request: Request,
    item_ids: Sequence[str],
) -> Mask:
    """Which items that the bundle does not know may be shown."""
    if request.beyond:
        allowed = request.beyond.allowed(item_ids)
    else:
        everything = request.allowed is None or bool(request.allowed.all())
        allowed = np.full(len(item_ids), everything)
    out = rules.excluded_ids(bundle, session, placement, _named(request))
    return allowed & np.array([item not in out for item in item_ids], dtype=np.bool_)


def _ids(bundle: Bundle, ranked: retrieval.Ranked, places: selection.Places) -> list[str]:
    rows, count = ranked.rows[places], len(bundle.items)
    if not ranked.beyond:
        return bundle.items.ids(rows)
    known = iter(bundle.items.ids(rows[rows < count]))
    return [next(known) if row < count else ranked.beyond[row - count] for row in rows.tolist()]


def _unseen(who: retrieval.Profile, ranked: retrieval.Ranked) -> selection.Places:
    """Places of the candidates that nobody has touched yet, this visitor neither, best first."""
    proposed = ranked.parts.values[ranked.parts.names.index("unseen"), -len(ranked.beyond) :]
    new = np.array([name not in who.trail for name in ranked.beyond])
    if (state := who.session.aggregates) is not None:
        new &= ~state.heard_of(state.numbers_of(ranked.beyond))
    places = len(ranked.rows) - len(new) + np.flatnonzero((proposed > 0) & new)
    return places[np.argsort(-ranked.scores[places], kind="stable")]


def _boosted(
    ranked: retrieval.Ranked, request: Request, out: NDArray[np.int32]
) -> retrieval.Ranked:
    """The same candidates with boosted scores. What may not be shown is no measure of them."""
    boosts = request.boosts
    for _, factor in boosts:
        if not LEAST_FACTOR <= factor <= MOST_FACTOR:
            raise InputError(
                f"boost.factor: must be from {LEAST_FACTOR} to {MOST_FACTOR}, got {factor!r}"
            )
    shown = ~np.isin(ranked.rows, out, assume_unique=True)
    rows = ranked.rows[: len(ranked.rows) - len(ranked.beyond)]
    masks = [mask[rows] for mask, _ in boosts]
    if ranked.beyond:
        none = [np.zeros(len(ranked.beyond), dtype=np.bool_)] * len(boosts)
        more = request.beyond.boosted(ranked.beyond) if request.beyond else none
        masks = [np.concatenate(both) for both in zip(masks, more, strict=True)]
    masks = [mask[shown] for mask in masks]
    added = np.zeros(len(ranked.rows))
    added[shown] = rules.boosted(ranked.scores[shown], masks, [factor for _, factor in boosts])
    made_of = ranked.made_of
    values = np.concatenate([made_of.values, added[None].astype(np.float32)])
    explained = retrieval.Parts((*made_of.names, "boost"), values)
    return structs.replace(ranked, scores=ranked.scores + added, made_of=explained)


def _uses_ranker(bundle: Bundle, who: retrieval.Profile, placement: Placement) -> bool:
    return placement.ranking == "auto" and ranking.uses_ranker(bundle, who)


def _is_heard_of(
    bundle: Bundle, who: retrieval.Profile, placement: Placement, *, followed: bool = False
) -> bool:
    """Whether the placement ranks by what the stream says of new items, and it says something."""
    if not _uses_ranker(bundle, who, placement):
        return False
    return retrieval.is_heard_of(bundle, who, followed=followed)


def _diversity(placement: Placement, request: Request) -> float:
    """The request's wish, else the placement's."""
    if request.diversity is None:
        return placement.diversity
    if not 0 <= request.diversity <= 1:
        raise InputError(f"diversity: must be from 0 to 1, got {request.diversity!r}")
    return request.diversity


def _check_masks(bundle: Bundle, request: Request) -> None:
    for mask in (request.allowed, *(mask for mask, _ in request.boosts)):
        if mask is not None and len(mask) != len(bundle.items):
            raise ValueError(
                f"a mask of {len(mask)} rows for a bundle of {len(bundle.items)} items"
            )


def _diverse(
    bundle: Bundle, ranked: retrieval.Ranked, best: selection.Places, diversity: float, n: int
) -> selection.Places:
    """Places in ``best``. What the bundle does not know is like nothing."""
    _, vectors = bundle.likeness
    rows = ranked.rows[best]
    theirs = vectors[np.minimum(rows, len(vectors) - 1)]
    theirs[rows >= len(vectors)] = 0
    return selection.diverse(ranked.scores[best], theirs, diversity, n)


def _tier(bundle: Bundle, who: retrieval.Profile, placement: Placement) -> str:
    if who.fresh or retrieval.has_taste(who) or _is_heard_of(bundle, who, placement):
        return "ranker" if _uses_ranker(bundle, who, placement) else "session"
    return "batch" if len(who.past[0]) else "popular"


def _reasons(parts: retrieval.Parts, best: selection.Places) -> list[str]:
    """The part that is highest for each item; where no source proposed, it is popularity."""
    if not parts.names:
        return ["popular"] * len(best)
    highest = parts.values[:, best].argmax(axis=0)
    return [parts.names[k] for k in highest.tolist()]


def _explained(made_of: retrieval.Parts, best: selection.Places) -> list[dict[str, float]]:
    rows = made_of.values[:, best].T.tolist()
    return [dict(zip(made_of.names, row, strict=True)) for row in rows]


class _Stopwatch:
    """Microseconds between laps."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = perf_counter_ns()

    def lap(self, name: str) -> None:
        now = perf_counter_ns()
        self.laps[name] = (now - self._last) / 1000
        self._last = now
