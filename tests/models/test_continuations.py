"""Continuations: past events on the last item, and what stood next to them."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from recsys.columns import slots
from recsys.config import ContinuationsConfig
from recsys.interactions import Sequences
from recsys.models import continuations

ITEMS = 5
WALKS = st.lists(st.integers(0, ITEMS - 1), min_size=1, max_size=9)


def sequences_of(sessions: list[list[int]]) -> Sequences:
    lengths = [len(session) for session in sessions]
    items = np.array([item for session in sessions for item in session], dtype=np.int32)
    return Sequences(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64), items)


def counted(
    sessions: list[list[int]], visitor: list[int], rows: list[int], config: ContinuationsConfig
) -> NDArray[np.float32]:
    """What the compiled code gives. visitor: items newest first."""
    model = continuations.fit(sequences_of(sessions), ITEMS, config)
    asked = np.array(rows, dtype=np.int32)
    out = np.zeros((continuations.COUNTS, len(rows)), dtype=np.float32)
    continuations.count(
        out,
        model.trail,
        model.starts,
        model.places,
        np.array(visitor, dtype=np.int32),
        asked,
        *slots(asked),
        config.context,
        config.decay,
    )
    return out


def searched(
    sessions: list[list[int]], visitor: list[int], row: int, config: ContinuationsConfig
) -> list[float]:
    """The same by plain search over the sessions."""
    last, way = visitor[0], visitor[1 : 1 + config.context]
    visits = [(s, k) for s in sessions for k, item in enumerate(s) if item == last]
    visits = visits[::-1][: config.events_per_item]
    likeness = []
    for session, k in visits:
        before = session[max(0, k - config.context) : k][::-1]
        likeness.append(
            sum(
                config.decay ** (back + way.index(item))
                for back, item in enumerate(before)
                if item in way
            )
        )
    events = sum(session.count(row) for session in sessions)

    def seen(away: int) -> list[bool]:
        return [0 <= k + away < len(s) and s[k + away] == row for s, k in visits]

    def alike(away: int) -> float:
        return sum(weight for weight, is_row in zip(likeness, seen(away), strict=True) if is_row)

    return [
        sum(seen(1)) / (len(visits) + 1),
        sum(seen(2)) / (len(visits) + 1),
        sum(seen(-1)) / (min(events, config.events_per_item) + 1),
        alike(1) / (sum(likeness) + 1),
        alike(2) / (sum(likeness) + 1),
        alike(1),
    ]


@settings(deadline=None)  # the first example compiles
@given(st.lists(WALKS, min_size=1, max_size=12), WALKS, st.integers(1, 6), st.integers(1, 40))
def test_counts_are_those_of_a_plain_search(
    sessions: list[list[int]], visitor: list[int], context: int, per_item: int
) -> None:
    """Whatever the sessions, shares and likeness are what a search through all of them finds."""
    config = ContinuationsConfig(events_per_item=per_item, context=context)
    rows = [0, 2, 3]
    expected = np.array([searched(sessions, visitor, row, config) for row in rows]).T
    np.testing.assert_allclose(counted(sessions, visitor, rows, config), expected, atol=1e-5)


def test_who_came_the_same_way_goes_on_the_same_way() -> None:
    """From item 1 most went on to 2, but those who had come from 0, as this visitor, to 3."""
    sessions = [[4, 1, 2]] * 6 + [[0, 1, 3]] * 2
    found = counted(sessions, [1, 0], [2, 3], ContinuationsConfig())
    assert found[0, 0] > found[0, 1]
    assert found[3, 0] == 0 < found[3, 1]


def test_sessions_do_not_run_into_each_other() -> None:
    """What opens a session does not follow what closed the one before."""
    found = counted([[0, 1], [2, 3]], [1], [2, 3], ContinuationsConfig())
    assert not found.any()
