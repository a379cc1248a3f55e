"""Replay: a log event by event, as the store would have held it, and what a list is asked at each.

A session is built from events that were already replayed and from nothing else, so no answer can
know the future; only ``Sample.upcoming`` does.
"""

from collections import deque
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace

import numpy as np
import polars as pl
from msgspec import structs
from numpy.typing import NDArray

from recsys.aggregate_log import LogFold
from recsys.config import Config, EventsConfig
from recsys.events import LOG_ONLY_TYPES, TERMS, Event
from recsys.session import Session, event_weight
from recsys.store import StoreConfig

SLICE = 50_000  # rows turned into Python objects at a time


@dataclass(frozen=True, slots=True)
class Moment:
    """What the store holds right after one event of the log was accepted.

    row: of the event in the log's frame. user_id: the known user of the session by now. version:
    accepted events of the session. events: of the session; user_events: of the user in any session;
    both oldest first, capped as the store caps them, without what it keeps in its log only. fold:
    of aggregates, if they matter; known: how many rows of its log are.
    """

    row: int
    event: Event
    user_id: str | None
    version: int
    events: tuple[Event, ...]
    user_events: tuple[Event, ...]
    fold: LogFold | None = None
    known: int = 0

    def session(self, config: Config) -> Session:
        """The session that the API would build at this moment.

        Aggregates go forward only: of moments in order, whose sessions are used before the next.
        """
        aggregates = self.fold.advance(self.known) if self.fold else None
        return Session.from_events(
            self.events,
            self.user_events,
            session_id=self.event.session_id,
            user_id=self.user_id,
            version=self.version,
            config=config.session,
            types=config.events,
            aggregates=aggregates,
            own=aggregates.own(self.event.session_id, self.user_id) if aggregates else None,
        )


@dataclass(frozen=True, slots=True)
class Sample:
    """A moment at which a list is asked for, with what the rest of the session brings.

    prefix: positive item events so far, this one included. seen: their items. upcoming: the items
    of the positive events still to come, in order, repeats included; never empty.
    """

    moment: Moment
    prefix: int
    seen: list[str]
    upcoming: list[str]


def replay(
    frame: pl.DataFrame, config: StoreConfig | None = None, fold: LogFold | None = None
) -> Iterator[Moment]:
    """Every moment of a log, in the order of its rows, by the rules of the store's append.

    frame: log columns, sorted by time. config: for its caps; nothing expires during a replay. fold:
    of aggregates, over a log that ends with the frame. What is held of a session or user is dropped
    after its last event, so memory grows with the visitors at one time, not with the log.
    """
    config = config or StoreConfig()
    sessions: dict[str, _Held] = {}
    users: dict[str, deque[Event]] = {}
    earlier = len(fold) - len(frame) if fold else 0
    for row, (event, session_ends, user, user_ends) in enumerate(_events(frame)):
        held = sessions.get(event.session_id)
        if held is None:
            held = sessions[event.session_id] = _Held(deque(maxlen=config.session_cap))
        live: deque[Event] | None = None
        if user is not None:
            live = users.setdefault(user, deque(maxlen=config.user_cap))
            if held.user is None:
                live.extend(held.events)  # what belonged to nobody becomes the user's
        held.user = user
        held.version += 1
        if event.type not in LOG_ONLY_TYPES:
            held.events.append(event)
            if live is not None:
                live.append(event)
        yield Moment(
            row,
            event,
            user,
            held.version,
            tuple(held.events),
            tuple(live or ()),
            fold,
            earlier + row + 1,
        )
        if session_ends:
            del sessions[event.session_id]
        if user is not None and user_ends:
            del users[user]


def samples(
    frame: pl.DataFrame,
    config: Config,
    min_prefix: int = 1,
    only: Collection[str] | None = None,
    fold: LogFold | None = None,
) -> Iterator[Sample]:
    """The moments after a positive item event that is not the last one of its session.

    min_prefix: positive item events that a session must hold. only: ids of the sessions to ask
    for; the others are replayed too, for their users' sake. fold: as in :func:`replay`.
    """
    ahead = _Ahead.of(frame, config.events)
    for moment in replay(frame, fold=fold):
        first, here, end = ahead.around(moment.row)
        prefix = here - first + 1
        if here < 0 or here + 1 == end or prefix < min_prefix:
            continue
        if only is None or moment.event.session_id in only:
            items = ahead.items
            yield Sample(moment, prefix, items[first : here + 1], items[here + 1 : end])


def openings(frame: pl.DataFrame, config: Config, fold: LogFold | None = None) -> Iterator[Sample]:
    """The moments before the first event of each session whose user is known from it on.

    The session is empty; the user's events in other sessions are what they were by then.
    """
    ahead = _Ahead.of(frame, config.events)
    for moment in replay(frame, fold=fold):
        first, _, end = ahead.around(moment.row)
        user = moment.event.user_id
        if moment.version > 1 or user is None or first < 0:
            continue
        earlier = tuple(e for e in moment.user_events if e.session_id != moment.event.session_id)
        before = replace(moment, version=0, events=(), user_events=earlier, known=moment.known - 1)
        yield Sample(before, 0, [], ahead.items[first:end])


def people(
    frame: pl.DataFrame, config: Config, only: Collection[str] | None = None
) -> Iterator[Sample]:
    """One sample a user: the moment before their first event, with nothing live.

    upcoming: the items of all their positive events in the log. only: ids of the sessions whose
    events count; empty samples are left out. Events without a user have none.
    """
    theirs = frame.filter(_positive(frame, config.events), pl.col("user_id").is_not_null())
    if only is not None:
        theirs = theirs.filter(pl.col("session_id").is_in(list(only)))
    grouped = theirs.with_row_index("row").group_by("user_id", maintain_order=True)
    for user, row, session, items in grouped.agg(
        pl.col("row").first(), pl.col("session_id").first(), "item_id"
    ).iter_rows():
        event = Event("view", session, user_id=user)
        yield Sample(Moment(row, event, user, 0, (), ()), 0, [], items)


def next_item(sample: Sample, barred: Collection[str]) -> frozenset[str]:
    """The next item, repeats allowed; items that the list may not hold now are passed over.

    So where the placement takes out what was touched, it is the next item not yet touched.
    """
    return frozenset(next(([item] for item in sample.upcoming if item not in barred), []))


def rest_of_session(sample: Sample, barred: Collection[str]) -> frozenset[str]:
    """All items still to come that are new to the session and that the list may hold now."""
    return frozenset(sample.upcoming).difference(sample.seen, barred)


def user(sample: Sample, barred: Collection[str]) -> frozenset[str]:
    """All items that the list may hold: of a user without session, all that the log brings.

    With ``people``, and training items taken out by the placement, it is the protocol of the
    literature on user-item data (He et al., "LightGCN", SIGIR 2020).
    """
    return frozenset(sample.upcoming).difference(barred)


# From a sample and the items barred from its list to the items looked for, maybe none.
PROTOCOLS: dict[str, Callable[[Sample, Collection[str]], frozenset[str]]] = {
    "next-item": next_item,
    "rest-of-session": rest_of_session,
    "user": user,
}


@dataclass(slots=True)
class _Held:
    events: deque[Event]
    version: int = 0
    user: str | None = None


@dataclass(frozen=True, slots=True)
class _Ahead:
    """The items of positive events, session by session, in order.

    place: int64 [rows of the frame], the index of a row's event in items, -1 if it is not positive.
    first, end: int64 [rows], the slice of its session.
    """

    items: list[str]
    place: NDArray[np.int64]
    first: NDArray[np.int64]
    end: NDArray[np.int64]

    @classmethod
    def of(cls, frame: pl.DataFrame, types: EventsConfig) -> "_Ahead":
        positive = (
            frame.select("session_id", "item_id", positive=_positive(frame, types))
            .with_row_index("row")
            .filter("positive")
            .with_columns(start=pl.col("row").min().over("session_id"))
            .sort("start", "row")
        )
        rows = positive["row"].to_numpy()
        starts = positive["start"].to_numpy()
        slices = np.full((3, len(frame)), -1, dtype=np.int64)
        slices[0, rows] = np.arange(len(rows))
        slices[1, rows] = np.searchsorted(starts, starts, side="left")
        slices[2, rows] = np.searchsorted(starts, starts, side="right")
        return cls(positive["item_id"].to_list(), *slices)

    def around(self, row: int) -> tuple[int, int, int]:
        """First, own and end index in items; own is -1 where the event is not positive."""
        return int(self.first[row]), int(self.place[row]), int(self.end[row])


def _positive(frame: pl.DataFrame, types: EventsConfig) -> pl.Series:
    """Whether each event shows interest in an item, by the session's own rule."""
    kinds = frame.select("type", "value").unique()
    weights = [event_weight(Event(t, "", value=v), types) for t, v in kinds.iter_rows()]
    weighed = frame.join(
        kinds.with_columns(weight=pl.Series(weights, dtype=pl.Float64)),
        on=["type", "value"],
        how="left",
        nulls_equal=True,
        maintain_order="left",
    )
    return (weighed["weight"] > 0) & weighed["item_id"].is_not_null()


def _events(frame: pl.DataFrame) -> Iterator[tuple[Event, bool, str | None, bool]]:
    """Each event, whether it ends its session; the session's user by then, whether it ends them."""
    frame = frame.with_columns(known=pl.col("user_id").forward_fill().over("session_id"))
    names = ("type", "session_id", "item_id", "user_id", "event_id", "timestamp", "value")
    terms = [name for name in TERMS if name in frame.columns]
    table = frame.select(
        *names,
        (pl.struct(terms) if terms else pl.lit(None)).alias("terms"),
        pl.col("session_id").is_last_distinct().alias("session_ends"),
        "known",
        pl.col("known").is_last_distinct().alias("user_ends"),
    )
    for part in table.iter_slices(SLICE):
        for *fields, said, session_ends, user, user_ends in part.iter_rows():
            event = Event(*fields)
            if said:
                told = {name: value for name, value in said.items() if value is not None}
                event = structs.replace(event, terms=told)
            yield event, session_ends, user, user_ends
