"""Session: the last events of one visitor, folded by one pure function. Its rules exist only here.

The rules: events that say nothing of taste (searches, impressions) are left out; the others are
de-duplicated by ``event_id`` (the first counts) and put in time order, ties in order of arrival;
the last ``max_events`` make up taste, but what was done to an item stands as long as its event is
held; a negative event (``remove``, ``dislike``, a return) cancels what came before it for that
item; an item weighs the sum of its events' weights times ``decay`` to the power of the number of
distinct items touched after it. Items stay external ids: a session knows no bundle.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice
from operator import attrgetter
from typing import NamedTuple

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from recsys.aggregates import Aggregates
from recsys.config import EventsConfig, SessionConfig
from recsys.events import MIN_WEIGHT, Event

USUAL = 256  # items that their recency is kept ready for
VISITS = 100  # a user's earlier sessions that are told apart: a shop's hundreds cost no more


class Visit(NamedTuple):
    """Distinct items of one session, and the Unix seconds of the last event on one of them."""

    moment: float
    items: tuple[str, ...]


class Trail(Struct, frozen=True):
    """Distinct items of interest, the latest first.

    sequence: the item of every event that stands in the window, the latest first, with repeats.
    prices: what each of these items cost then, None where that is not known.
    weights: float32, one per item, > 0. types: the event types that stand for each item, of items
    before the window too. rejected: items whose last word was negative, however long ago.
    visits: of earlier sessions, where the order of events is ignored, the latest first.
    """

    items: tuple[str, ...] = ()
    sequence: tuple[str, ...] = ()
    prices: tuple[float | None, ...] = ()
    weights: NDArray[np.float32] = msgspec.field(default_factory=lambda: np.zeros(0, np.float32))
    types: Mapping[str, frozenset[str]] = {}
    rejected: frozenset[str] = frozenset()
    visits: tuple[Visit, ...] = ()


NO_TRAIL = Trail()


@dataclass(frozen=True, slots=True)
class Session:
    """What is known live about one visitor.

    version: accepted events so far, as counted by the store. current: the fold of this session.
    past: the fold of the known user's live events in other sessions.
    moment: Unix seconds of the latest event, 0 without any. aggregates: what the stream says of all
    items now. own: by name, the values of the aggregates of the session and of its user.
    """

    session_id: str | None = None
    user_id: str | None = None
    version: int = 0
    current: Trail = field(default_factory=Trail)
    past: Trail = field(default_factory=Trail)
    moment: float = 0.0
    aggregates: Aggregates | None = field(default=None, repr=False, compare=False)
    own: Mapping[str, float] = field(default_factory=dict, compare=False)

    @classmethod
    def from_events(
        cls,
        events: Iterable[Event],
        user_events: Iterable[Event] = (),
        *,
        session_id: str | None = None,
        user_id: str | None = None,
        version: int = 0,
        config: SessionConfig | None = None,
        types: EventsConfig | None = None,
        aggregates: Aggregates | None = None,
        own: Mapping[str, float] | None = None,
    ) -> "Session":
        """Fold a visitor's events.

        events: those of this session. user_events: those of the known user, whatever the session;
        the ones of this session among them are left out of ``past``.
        """
        config, types = config or SessionConfig(), types or EventsConfig()
        current = _ordered(events, types)
        if session_id is None and current:
            session_id = current[-1].session_id
        elsewhere = [e for e in user_events if e.session_id != session_id]
        past = _ordered(elsewhere, types)
        return cls(
            session_id=session_id,
            user_id=user_id or next((e.user_id for e in reversed(current) if e.user_id), None),
            version=version,
            current=_fold(current, config.max_events, config.decay, types),
            past=_fold(
                past,
                config.max_past_events,
                config.past_decay,
                types,
                apart=config.order == "ignored",
            ),
            moment=max((e.timestamp for e in (*current[-1:], *past[-1:])), default=0.0),
            aggregates=aggregates,
            own=own or {},
        )


def event_weight(event: Event, types: EventsConfig) -> float:
    """Interest shown by one event; unknown types, and less than MIN_WEIGHT, say nothing (0)."""
    weight = types.weights.get(event.type, 0.0)
    if event.type == "rating" and event.value is not None:
        weight *= event.value / types.rating_scale
    return weight if abs(weight) >= MIN_WEIGHT else 0.0


def _ordered(events: Iterable[Event], types: EventsConfig) -> list[Event]:
    seen: set[str] = set()
    unique = []
    for event in events:
        if event.item_id is None or event_weight(event, types) == 0:
            continue
        if event.event_id is not None:
            if event.event_id in seen:
                continue
            seen.add(event.event_id)
        unique.append(event)
    unique.sort(key=attrgetter("timestamp"))
    return unique


def _fold(
    events: list[Event], window: int, decay: float, types: EventsConfig, *, apart: bool = False
) -> Trail:
    """apart: with the visits, which the ranker of clicks in order is not told of."""
    if not events:  # as mostly of the past
        return NO_TRAIL
    weights: dict[str, float] = {}  # in order of the latest touch
    kinds: dict[str, frozenset[str]] = {}
    sequence: list[str] = []
    prices: list[float | None] = []
    closed: set[str] = set()
    rejected: set[str] = set()
    visits: dict[str, dict[str, float]] = {}  # by session, when each of its items was touched
    for age, event in enumerate(reversed(events)):
        item = event.item_id
        assert item is not None  # _ordered kept only events of an item
        if item in closed:
            continue
        weight = event_weight(event, types)
        if weight < 0:
            closed.add(item)
            if item not in kinds:
                rejected.add(item)
        else:
            if age < window:
                weights[item] = weights.get(item, 0.0) + weight
                sequence.append(item)
                prices.append(event.terms.get("price"))
            only, known = _only(event.type), kinds.get(item)
            kinds[item] = only if known is None else known | only
            if apart:
                visits.setdefault(event.session_id, {}).setdefault(item, event.timestamp)
    recency = _recency(decay, max(len(weights), USUAL))[: len(weights)]
    return Trail(
        items=tuple(weights),
        sequence=tuple(sequence),
        prices=tuple(prices),
        weights=(np.fromiter(weights.values(), float, len(weights)) * recency).astype(np.float32),
        types=kinds,
        rejected=frozenset(rejected),
        visits=tuple(
            Visit(max(held.values()), tuple(held)) for held in islice(visits.values(), VISITS)
        ),
    )


@lru_cache
def _only(kind: str) -> frozenset[str]:
    return frozenset((kind,))


@lru_cache
def _recency(decay: float, count: int) -> NDArray[np.float64]:
    """What items weigh by how many were touched after them. Above MIN_WEIGHT: float32 would turn
    the oldest of a long window into 0."""
    weights: NDArray[np.float64] = np.maximum(decay ** np.arange(count), MIN_WEIGHT)
    return weights
