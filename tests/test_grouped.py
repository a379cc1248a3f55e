"""Grouped: what visitors did and sessions held, against plain dictionaries."""

from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.grouped import SHORT, by_session, by_visitor

# Session, item, user or -1, weight, bought.
Event = tuple[int, int, int, float, bool]
EVENTS = st.lists(
    st.tuples(
        st.integers(0, 5),
        st.integers(0, 9),
        st.integers(-1, 3),
        st.sampled_from([0.2, 1.0, 5.0]),
        st.booleans(),
    ),
    min_size=1,
    max_size=4 * SHORT,
)


def dense(numbers: list[int]) -> list[int]:
    """The same told apart, from 0 on without gaps; -1 stays."""
    names = sorted(set(numbers) - {-1})
    return [names.index(number) if number >= 0 else -1 for number in numbers]


@given(EVENTS)
@settings(deadline=None)
def test_visitors_have_each_item_once(events: list[Event]) -> None:
    """With the sum of its weights; known users also in the order in which they touched them."""
    users = dense([event[2] for event in events])
    known = max(users) + 1
    visitors = [
        user if user >= 0 else known + 3 * event[0]  # some numbers are nobody's
        for user, event in zip(users, events, strict=True)
    ]
    found = by_visitor(
        np.array(visitors, np.int64),
        np.array([event[1] for event in events], np.int32),
        np.array([event[3] for event in events]),
        np.array([event[4] for event in events]),
        known,
    )
    sums: dict[int, dict[int, float]] = defaultdict(dict)
    bought: dict[int, set[int]] = defaultdict(set)
    for visitor, (_, item, _, weight, buys) in zip(visitors, events, strict=True):
        sums[visitor][item] = sums[visitor].pop(item, 0.0) + weight  # the latest comes last
        bought[visitor] |= {item} if buys else set()
    assert len(found.indptr) == len(sums) + 1
    assert len(found.latest) == found.indptr[known]
    for row, visitor in enumerate(sorted(sums)):
        own = slice(int(found.indptr[row]), int(found.indptr[row + 1]))
        wanted = sums[visitor]
        assert found.items[own].tolist() == sorted(wanted)
        weights = [wanted[item] for item in sorted(wanted)]
        assert found.weights[own].tolist() == pytest.approx(weights)
        if visitor < known:
            latest = list(wanted)[::-1]
            assert found.latest[own].tolist() == latest
            assert found.their_weights[own].tolist() == pytest.approx([wanted[i] for i in latest])
            assert found.bought[own].tolist() == [item in bought[visitor] for item in latest]


@given(EVENTS)
@settings(deadline=None)
def test_sessions_stand_in_the_order_of_their_ends(events: list[Event]) -> None:
    """With all their items in order of time, and each once; and users know which were theirs."""
    sessions, users = dense([e[0] for e in events]), dense([e[2] for e in events])
    items = [event[1] for event in events]
    found = by_session(
        *(np.array(numbers, np.int32) for numbers in (sessions, items, users)), max(users) + 1
    )
    own: dict[int, list[int]] = defaultdict(list)
    ends, theirs = dict[int, int](), defaultdict[int, set[int]](set)
    for k, (session, item, user) in enumerate(zip(sessions, items, users, strict=True)):
        own[session].append(item)
        ends[session] = k
        if user >= 0:
            theirs[user].add(session)
    for session in range(len(own)):
        part = slice(int(found.indptr[session]), int(found.indptr[session + 1]))
        assert found.items[part].tolist() == sorted(set(own[session]))
    order = sorted(ends, key=ends.__getitem__)
    assert found.ends.tolist() == [ends[session] for session in order]
    for place, session in enumerate(order):
        part = slice(int(found.starts[place]), int(found.starts[place + 1]))
        assert found.sequence[part].tolist() == own[session]
    somebody = set[int]().union(*theirs.values())
    assert found.known.tolist() == [session in somebody for session in order]
    for user in range(max(users) + 1):
        own = slice(int(found.their_visits[user]), int(found.their_visits[user + 1]))
        places = [place for place, session in enumerate(order) if session in theirs[user]]
        assert found.visits[own].tolist() == places[::-1]
