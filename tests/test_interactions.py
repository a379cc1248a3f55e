"""Folding a log into matrices, and ids into rows."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys import interactions
from recsys.config import EventsConfig
from recsys.events import Event
from recsys.interactions import IdMap, NoInteractionsError, fold
from recsys.session import Session
from tests.synthetic import START, log_frame


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=8), unique=True))
def test_id_map_is_a_bijection(ids: list[str]) -> None:
    """Every id finds its row and every row its id; a stranger finds -1."""
    mapping = IdMap.from_ids(ids)
    assert mapping.rows(ids).tolist() == list(range(len(ids)))
    assert mapping.ids(range(len(ids))) == ids
    assert mapping.rows(["a stranger, too long"]).tolist() == [-1]


def test_id_map_tells_ids_of_equal_hash_apart() -> None:
    """Two ids under one hash keep their own rows."""
    mapping = IdMap.from_ids(["a", "b"])
    clash = IdMap(mapping.text, mapping.offsets, np.repeat(mapping.hashes[:1], 2), mapping.order)
    known = mapping.ids(mapping.order[:1])[0]
    assert clash.rows([known]).tolist() == mapping.rows([known]).tolist()


@given(
    st.lists(st.lists(st.sampled_from([f"i{k}" for k in range(9)]), max_size=12), max_size=8),
)
def test_id_map_remembers_little_and_forgets_nothing(questions: list[list[str]]) -> None:
    """With room for four ids and rows in memory every answer is still right, strangers' too."""
    mapping = IdMap.from_ids([f"i{k}" for k in range(6)])
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(interactions, "REMEMBERED", 4)
        for ids in questions:
            right = [int(i[1:]) if int(i[1:]) < 6 else -1 for i in ids]
            assert mapping.rows(ids).tolist() == right
            known = [row for row in right if row >= 0]
            assert mapping.ids(known) == [f"i{row}" for row in known]
    assert len(mapping._rows_of) <= 4
    assert len(mapping._ids_of) <= 4


def test_what_a_map_holds_is_not_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not once; strangers are, and all ids of a map that is too large to be held."""
    ids = ["a", "bc", "", "\u00e9t\u00e9"]
    held, large = IdMap.from_ids(ids), IdMap.from_ids(ids)
    monkeypatch.setattr(interactions, "AT_A_TIME", 3)
    held.hold()
    monkeypatch.setattr(interactions, "HELD", 3)
    large.hold()
    looked_up: list[IdMap] = []
    digest = interactions._digest

    def counted(encoded: bytes) -> bytes:
        looked_up.append(asked)
        return digest(encoded)

    monkeypatch.setattr(interactions, "_digest", counted)
    for asked in (held, large):
        assert asked.rows(ids).tolist() == [0, 1, 2, 3]
        assert asked.ids([3, 0]) == ["\u00e9t\u00e9", "a"]
    assert looked_up == [large] * 4
    asked = held
    assert held.rows(["c", "a"]).tolist() == [-1, 0]
    assert looked_up == [large] * 4 + [held]


def test_matrices_hold_weights_by_visitor_and_presence_by_session() -> None:
    """Known users come first, anonymous sessions are visitors of their own."""
    data = fold(
        log_frame(
            [
                {"session_id": "s1", "user_id": "u", "item_id": "a"},
                {"session_id": "s2", "user_id": "u", "item_id": "a", "type": "cart"},
                {"session_id": "s3", "item_id": "b"},
                {"session_id": "s3", "type": "search"},
            ]
        ),
        EventsConfig(),
    )
    assert data.items.ids([0, 1]) == ["a", "b"]
    assert data.by_visitor.toarray().tolist() == [[4, 0], [0, 1]]
    assert data.by_session.toarray().tolist() == [[1, 0], [1, 0], [0, 1]]
    assert data.popularity.tolist() == [4, 1]
    assert data.sessions == 3
    assert len(data.users) == 1


def test_history_lists_the_latest_first() -> None:
    """A known user's items stand in order of the last touch, with what was bought."""
    rows = [("a", "purchase"), ("b", "view"), ("a", "view"), ("c", "view"), ("c", "remove")]
    data = fold(
        log_frame([{"session_id": "s", "user_id": "u", "item_id": i, "type": t} for i, t in rows]),
        EventsConfig(),
    )
    mine = data.history.of(0)
    assert data.items.ids(data.history.items[mine]) == ["a", "b"]
    assert data.history.bought[mine].tolist() == [True, False]
    assert data.history.of(-1) == slice(0)


def test_a_session_is_its_users_from_the_start() -> None:
    """What was done before signing in is theirs, and what follows without a name, as it is live."""
    names = [(None, "a"), ("u", "b"), (None, "c"), ("v", "d"), (None, "e")]
    rows = [{"session_id": "s", "user_id": user, "item_id": item} for user, item in names]
    data = fold(log_frame([*rows, {"session_id": "t", "item_id": "f"}]), EventsConfig())

    def touched(user: str) -> set[str]:
        entries = data.history.of(int(data.users.rows([user])[0]))
        return set(data.items.ids(data.history.items[entries]))

    assert (touched("u"), touched("v")) == (set("abc"), set("de"))
    assert data.by_visitor.shape[0] == 3


def test_strangers_and_sessions_of_users_are_told() -> None:
    """A session is a stranger's when nobody was known in any of its events."""
    rows = [
        ("s1", "u", "a"),
        ("s1", "u", "b"),
        ("s2", None, "a"),
        ("s3", "u", "a"),
        ("s4", "v", "b"),
    ]
    data = fold(
        log_frame([{"session_id": s, "user_id": u, "item_id": i} for s, u, i in rows]),
        EventsConfig(),
    )
    assert data.strangers.tolist() == [False, True, False, False]
    assert data.users.ids([0, 1]) == ["u", "v"]
    assert [data.history.visits_of(user).tolist() for user in (0, 1, -1)] == [[2, 0], [3], []]


def test_a_return_leaves_nothing() -> None:
    """What is cancelled is in no matrix, though the same user did it in another session."""
    data = fold(
        log_frame(
            [
                {"session_id": "s1", "user_id": "u", "item_id": "a", "type": "purchase"},
                {"session_id": "s1", "user_id": "u", "item_id": "b", "type": "purchase"},
                {"session_id": "s2", "user_id": "u", "item_id": "a", "type": "remove"},
            ]
        ),
        EventsConfig(),
    )
    assert data.items.ids(range(len(data.items))) == ["b"]


def test_repeat_purchases_are_measured() -> None:
    """The share of purchases of something already bought by that user in another session."""
    data = fold(
        log_frame(
            [
                {"session_id": s, "user_id": "u", "item_id": i, "type": "purchase"}
                for s, i in [("1", "a"), ("1", "b"), ("2", "a"), ("3", "c")]
            ]
        ),
        EventsConfig(),
    )
    assert data.repeat_purchase_rate == 0.25


def test_revisits_are_measured() -> None:
    """The share of events after a session's first that are of an item it had already."""
    places = [("1", "a"), ("1", "b"), ("1", "a"), ("1", "a"), ("2", "a"), ("3", "c"), ("3", "d")]
    told = log_frame([{"session_id": s, "item_id": i} for s, i in places])
    assert fold(told, EventsConfig()).revisit_rate == 0.5
    assert fold(told.filter(session_id="2"), EventsConfig()).revisit_rate == 0.0


def test_a_log_without_interest_is_an_error() -> None:
    """Only searches: nothing can be learnt, and the text says where to look."""
    with pytest.raises(NoInteractionsError, match=r"check the type column"):
        fold(log_frame([{"session_id": "s", "type": "search"}]), EventsConfig())


EVENTS = st.lists(
    st.tuples(
        st.sampled_from("abc"),
        st.sampled_from(["view", "cart", "remove", "dislike", "purchase", "search"]),
    ),
    min_size=1,
    max_size=12,
)


@given(EVENTS)
def test_the_batch_folds_a_session_as_the_stream_does(events: list[tuple[str, str]]) -> None:
    """One session's row of the matrix holds the live session's items and undecayed weights."""
    rows = [{"session_id": "s", "item_id": i, "type": t} for i, t in events]
    live = Session.from_events(
        Event(t, "s", i, timestamp=START + k) for k, (i, t) in enumerate(events)
    ).current
    undecayed = live.weights / 0.6 ** np.arange(len(live.items))
    try:
        data = fold(log_frame(rows), EventsConfig())
    except NoInteractionsError:
        assert live.items == ()
        return
    assert set(data.items.ids(range(len(data.items)))) == set(live.items)
    batch = data.by_visitor.toarray()[0, data.items.rows(live.items)]
    np.testing.assert_allclose(batch, undecayed, rtol=1e-5)
