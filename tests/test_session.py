"""The fold of a visitor's events."""

from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.config import EventsConfig, SessionConfig
from recsys.events import Event
from recsys.session import VISITS, Session, Visit

CONFIG = SessionConfig(max_events=5, max_past_events=3, decay=0.5, past_decay=1.0)


def fold(*events: Event, user_events: tuple[Event, ...] = ()) -> Session:
    return Session.from_events(events, user_events, session_id="s", config=CONFIG)


def view(item: str | None, at: float, type_: str = "view", session: str = "s", **more) -> Event:
    return Event(type_, session, item, timestamp=at, **more)


def test_later_items_weigh_more() -> None:
    """An item loses half its weight with every distinct item touched after it."""
    trail = fold(view("a", 1), view("b", 2), view("c", 3)).current
    assert trail.items == ("c", "b", "a")
    np.testing.assert_allclose(trail.weights, [1.0, 0.5, 0.25])


def test_event_types_weigh_as_configured() -> None:
    """A view and a cart of one item add up; ratings count by their value."""
    trail = fold(view("a", 1), view("a", 2, "cart")).current
    assert trail.weights.tolist() == [4.0]
    assert trail.types["a"] == {"view", "cart"}
    assert fold(view("a", 1, "rating", value=2.5)).current.weights.tolist() == [0.5]


@pytest.mark.parametrize("negative", ["remove", "dislike"])
def test_a_negative_event_cancels_what_came_before(negative: str) -> None:
    """Taking an item out undoes the interest shown before, not the interest shown after."""
    gone = fold(view("a", 1, "cart"), view("b", 2), view("a", 3, negative)).current
    assert gone.items == ("b",)
    assert gone.rejected == {"a"}
    back = fold(view("a", 1, "cart"), view("a", 2, negative), view("a", 3)).current
    assert back.items == ("a",)
    assert back.weights.tolist() == [1.0]
    assert back.rejected == frozenset()


def test_the_same_event_id_counts_once() -> None:
    """A repeated event changes nothing, whatever else it says."""
    once = fold(view("a", 1, event_id="e"))
    twice = fold(view("a", 1, event_id="e"), view("b", 2, event_id="e"))
    assert once.current.items == twice.current.items == ("a",)


def test_only_the_last_events_count() -> None:
    """The window holds the last events in time, searches and impressions aside."""
    events = [view(f"i{k}", k) for k in range(8)]
    noise = [view("x", 100 + k, "impression") for k in range(9)] + [view(None, 200, "search")]
    assert fold(*events, *noise).current.items == ("i7", "i6", "i5", "i4", "i3")


def test_what_was_done_to_an_item_outlasts_the_window() -> None:
    """An old cart, purchase or dislike shapes taste no more, but still stands."""
    old = [view("a", 1, "cart"), view("b", 2, "dislike"), view("c", 3, "purchase")]
    trail = fold(*old, *[view(f"i{k}", 10 + k) for k in range(8)]).current
    assert "a" not in trail.items
    assert trail.types["a"] == {"cart"}
    assert trail.types["c"] == {"purchase"}
    assert trail.rejected == {"b"}


def test_vanishing_weights_say_nothing() -> None:
    """A rating of next to nothing, or a very old event, leaves no zero among the weights."""
    assert fold(view("a", 1, "rating", value=1e-50)).current.items == ()
    deep = SessionConfig(max_events=200, decay=0.1)
    events = [view(f"i{k}", k) for k in range(200)]
    assert (Session.from_events(events, config=deep).current.weights > 0).all()


def test_unknown_types_are_ignored() -> None:
    """A type the configuration does not know says nothing."""
    assert fold(view("a", 1, "teleport")).current.items == ()


def test_a_known_users_other_sessions_are_the_past() -> None:
    """Live events of earlier sessions are kept apart from this session's."""
    here, before = view("a", 9), view("b", 1, session="earlier", user_id="u")
    session = Session.from_events([here], [before, here], user_id="u", config=CONFIG)
    assert session.current.items == ("a",)
    assert session.past.items == ("b",)
    assert session.moment == 9


def test_an_empty_session_is_empty() -> None:
    """Nothing known is a session as well."""
    session = Session.from_events([])
    assert session.current.items == session.past.items == ()
    assert session.moment == 0


EVENTS = st.lists(
    st.builds(
        Event,
        type=st.sampled_from(list(EventsConfig().weights)),
        session_id=st.just("s"),
        item_id=st.sampled_from("abc"),
        event_id=st.none() | st.sampled_from("xyz"),
        timestamp=st.integers(0, 99).map(float),
    ),
    max_size=12,
    unique_by=lambda event: event.timestamp,
)


@given(EVENTS, st.randoms(use_true_random=False))
def test_order_of_arrival_does_not_matter(events: list[Event], random) -> None:
    """Events with distinct times and ids fold to the same session in whatever order they come."""
    events = [e for k, e in enumerate(events) if e.event_id not in {x.event_id for x in events[:k]}]
    shuffled = list(events)
    random.shuffle(shuffled)
    one, other = fold(*events).current, fold(*shuffled).current
    assert one.items == other.items
    assert one.types == other.types
    np.testing.assert_array_equal(one.weights, other.weights)


@given(EVENTS)
def test_weights_are_positive_and_rejected_items_have_none(events: list[Event]) -> None:
    """No item is both of interest and rejected; weights are finite and positive."""
    trail = fold(*events).current
    assert not set(trail.items) & trail.rejected
    assert len(set(trail.items)) == len(trail.items) == len(trail.weights)
    assert np.isfinite(trail.weights).all()
    assert (trail.weights > 0).all()


BASKETS = SessionConfig(order="ignored", max_past_events=2)


def visits_of(*events: Event, config: SessionConfig = BASKETS) -> tuple[Visit, ...]:
    return Session.from_events([], events, session_id="s", config=config).past.visits


def test_earlier_baskets_are_told_apart() -> None:
    """Each with its distinct items, however many events of the past make up taste; the one that was
    touched last first. What was given back is in none, and neither is this session."""
    events = [
        view("a", 1, "purchase", session="one"),
        view("a", 1, "purchase", session="one"),
        view("b", 1, "purchase", session="one"),
        view("a", 2, "purchase", session="two"),
        view("c", 2, "purchase", session="s"),
        view("d", 3, "purchase", session="three"),
        view("d", 4, "remove", session="four"),
        view("e", 5, "purchase", session="one"),
    ]
    assert visits_of(*events) == ((5, ("e", "b", "a")), (2, ("a",)))


def test_of_many_earlier_baskets_the_latest_are_told() -> None:
    """So that who comes every day costs no more than others."""
    events = [view(f"i{k}", k, "purchase", session=f"b{k}") for k in range(2 * VISITS)]
    found = visits_of(*events)
    assert [visit.items for visit in found] == [
        (f"i{k}",) for k in range(2 * VISITS - 1, VISITS - 1, -1)
    ]


@pytest.mark.parametrize("order", ["auto", "kept"])
def test_earlier_sessions_of_clicks_are_not_told_apart(order: Literal["auto", "kept"]) -> None:
    """Nobody asks for them there, so they cost nothing."""
    event = view("a", 1, session="one")
    assert visits_of(event, config=SessionConfig(order=order)) == ()
