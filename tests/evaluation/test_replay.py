"""The replay holds what the store would hold, and knows nothing of the future."""

import random

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.config import Config
from recsys.evaluation.replay import (
    Sample,
    next_item,
    openings,
    people,
    replay,
    rest_of_session,
    samples,
    user,
)
from recsys.events import LOG_ONLY_TYPES
from recsys.session import Session
from recsys.store import Store, StoreConfig
from tests.synthetic import START, log_frame

CONFIG = Config()
SMALL = StoreConfig(session_cap=3, user_cap=4)

EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["s1", "s2", "s3"]),
        st.sampled_from(["a", "b", "c", None]),
        st.sampled_from(["view", "cart", "remove", "search", "impression"]),
        st.sampled_from(["u1", None]),
    ),
    max_size=25,
)


def frame_of(events: list[tuple[str, str | None, str, str | None]]) -> pl.DataFrame:
    """Events one second apart."""
    names = ("session_id", "item_id", "type", "user_id")
    return log_frame([dict(zip(names, event, strict=True)) for event in events])


def views(text: str) -> pl.DataFrame:
    """One session that views one item a letter."""
    return frame_of([("s", letter, "view", None) for letter in text])


def asked(frame: pl.DataFrame, config: Config = CONFIG, min_prefix: int = 1) -> list[Sample]:
    return list(samples(frame, config, min_prefix))


@given(EVENTS)
def test_only_the_past(events: list[tuple[str, str | None, str, str | None]]) -> None:
    """A moment is the same whether or not anything follows it."""
    frame = frame_of(events)
    whole = list(replay(frame, SMALL))
    assert [m.row for m in whole] == list(range(len(frame)))
    for row, moment in enumerate(whole):
        cut_off = list(replay(frame[: row + 1], SMALL))[-1]
        assert moment == cut_off
        assert all(e.timestamp <= moment.event.timestamp for e in moment.events)
        assert all(e.timestamp <= moment.event.timestamp for e in moment.user_events)


@given(EVENTS)
def test_holds_and_caps(events: list[tuple[str, str | None, str, str | None]]) -> None:
    """Each moment holds the last events of its session that matter, and counts all of them."""
    for moment in replay(frame_of(events), SMALL):
        own = [k for k, e in enumerate(events) if e[0] == moment.event.session_id]
        own = [k for k in own if k <= moment.row]
        assert moment.version == len(own)
        kept = [k for k in own if events[k][2] not in LOG_ONLY_TYPES]
        assert [e.timestamp - START for e in moment.events] == kept[-3:]
        assert len(moment.user_events) <= 4


def test_known_user_across_sessions() -> None:
    """A known user's events of other sessions are at hand, the newest ones up to the cap."""
    frame = frame_of([(f"s{k // 2}", f"i{k}", "view", "u") for k in range(6)])
    last = list(replay(frame, SMALL))[-1]
    assert [e.item_id for e in last.user_events] == ["i2", "i3", "i4", "i5"]
    session = last.session(CONFIG)
    assert session.user_id == "u"
    assert session.current.items == ("i5", "i4")
    assert session.past.items == ("i3", "i2")


def test_user_known_from_then_on() -> None:
    """A session that names its user gives them its earlier events; later ones need not name."""
    frame = frame_of(
        [
            ("s", "a", "view", None),
            ("s", "b", "view", "u"),
            ("s", "c", "view", None),
            ("t", "d", "view", "u"),
        ]
    )
    moments = list(replay(frame))
    assert [m.user_id for m in moments] == [None, "u", "u", "u"]
    assert [[e.item_id for e in m.user_events] for m in moments] == [
        [],
        ["a", "b"],
        ["a", "b", "c"],
        ["a", "b", "c", "d"],
    ]
    assert moments[-1].session(CONFIG).past.items == ("c", "b", "a")


@pytest.mark.anyio
async def test_a_real_store_holds_the_same(store: Store) -> None:
    """After each of 300 random events a real store reads back what the replay says it holds."""
    pick = random.Random(4)
    frame = frame_of(
        [
            (
                f"s{k // 40}-{pick.randrange(4)}",
                pick.choice("abcdef"),
                pick.choice(["view", "cart", "remove", "impression", "unheard-of"]),
                pick.choice([None, None, "u", "v"]),
            )
            for k in range(300)
        ]
    ).with_columns(event_id=pl.int_range(pl.len()).cast(pl.String))
    for moment in replay(frame, store.config):
        await store.append([moment.event])
        live = await store.read(moment.event.session_id, None)
        assert live.version == moment.version
        assert live.user_id == moment.user_id
        assert tuple(live.events) == moment.events
        assert tuple(live.user_events) == moment.user_events


def test_session_as_the_api_builds_it() -> None:
    """The session of a moment is Session.from_events of what is held."""
    frame = frame_of([("s", "a", "cart", "u"), ("s", "b", "view", "u"), ("s", "a", "remove", "u")])
    moment = list(replay(frame))[-1]
    session = moment.session(CONFIG)
    expected = Session.from_events(
        moment.events, moment.user_events, session_id="s", user_id="u", version=3
    )
    assert session.current.items == expected.current.items == ("b",)
    assert session.current.rejected == {"a"}
    assert (session.version, session.moment) == (3, START + 2)


def test_samples_of_a_session() -> None:
    """A list is asked for after every positive item event but the last."""
    found = asked(views("abac"))
    assert [(s.prefix, "".join(s.seen), "".join(s.upcoming)) for s in found] == [
        (1, "a", "bac"),
        (2, "ab", "ac"),
        (3, "aba", "c"),
    ]


def test_min_prefix() -> None:
    """The first list is asked for after min_prefix positive item events."""
    assert [s.prefix for s in asked(views("abcd"), min_prefix=3)] == [3]


def test_only_positive_events_count() -> None:
    """Searches, impressions, removals and low-weight types are neither prefix nor target."""
    frame = frame_of(
        [
            ("s", None, "search", None),
            ("s", "a", "view", None),
            ("s", "b", "impression", None),
            ("s", "a", "remove", None),
            ("s", "c", "view", None),
            ("s", "d", "unheard-of", None),
        ]
    )
    assert [(s.moment.row, s.prefix, s.upcoming) for s in asked(frame)] == [(1, 1, ["c"])]


def test_interleaved_sessions() -> None:
    """What comes is taken from the own session only."""
    frame = frame_of([(s, i, "view", None) for s, i in zip("1212", "axby", strict=True)])
    assert [(s.moment.event.session_id, s.upcoming) for s in asked(frame)] == [
        ("1", ["b"]),
        ("2", ["y"]),
    ]


def test_drawn_sessions() -> None:
    """Sessions that were not drawn are replayed for their user's sake but not asked about."""
    frame = frame_of([(s, i, "view", "u") for s, i in zip("1122", "abxy", strict=True)])
    (found,) = samples(frame, CONFIG, only={"2"})
    assert found.moment.session(CONFIG).past.items == ("b", "a")


def test_next_item() -> None:
    """The next item may be a repeat, but not one that the list may not hold."""
    second = asked(views("abac"))[1]
    assert next_item(second, ()) == {"a"}
    assert next_item(second, ("a", "b")) == {"c"}
    assert next_item(second, ("a", "b", "c")) == frozenset()


def test_rest_of_session() -> None:
    """All later items that are new to the session and may stand in the list."""
    second = asked(views("abacdd"))[1]
    assert rest_of_session(second, ()) == {"c", "d"}
    assert rest_of_session(second, ("d",)) == {"c"}


def test_empty_log() -> None:
    """An empty log has no moments and no samples."""
    empty = views("a").clear()
    assert list(replay(empty)) == []
    assert asked(empty) == []


def test_an_opening_is_the_moment_before_a_known_users_session() -> None:
    """It holds the user's earlier sessions and nothing of the one that is to come."""
    frame = frame_of(
        [
            ("s1", "a", "view", "u1"),
            ("s2", "b", "view", None),
            ("s1", "c", "view", "u1"),
            ("s3", "d", "view", "u1"),
            ("s3", "a", "view", "u1"),
        ]
    )
    first, second = openings(frame, CONFIG)
    assert (first.prefix, first.upcoming, first.moment.events) == (0, ["a", "c"], ())
    assert first.moment.user_events == ()
    assert second.upcoming == ["d", "a"]
    session = second.moment.session(CONFIG)
    assert (session.user_id, session.version, session.current.items) == ("u1", 0, ())
    assert session.past.items == ("c", "a")


def test_a_user_is_asked_for_once_before_anything_is_live() -> None:
    """One empty session a known user; looked for is all their log brings but what is barred."""
    frame = frame_of(
        [
            ("s1", "a", "view", "u1"),
            ("s2", "b", "view", "u2"),
            ("s3", "c", "cart", "u1"),
            ("s3", "c", "view", "u1"),
            ("s3", None, "search", "u1"),
            ("s4", "d", "view", None),
        ]
    )
    one, two = people(frame, CONFIG)
    assert [(s.moment.user_id, s.upcoming) for s in (one, two)] == [
        ("u1", ["a", "c", "c"]),
        ("u2", ["b"]),
    ]
    session = one.moment.session(CONFIG)
    assert (session.user_id, session.version) == ("u1", 0)
    assert (session.current.items, session.past.items) == ((), ())
    assert user(one, ["a"]) == {"c"}
    assert [s.upcoming for s in people(frame, CONFIG, ["s3"])] == [["c", "c"]]
