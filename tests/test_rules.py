"""What may not stand in a list."""

import numpy as np
import pytest

from recsys import rules
from recsys.bundle import Bundle
from recsys.config import Config, Placement
from recsys.events import Event
from recsys.session import Session
from recsys.training import train
from tests.synthetic import log_frame, small_config


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    """User u bought a and viewed b; nobody buys anything twice."""
    known = [
        {"session_id": "x", "user_id": "u", "item_id": "a", "type": "purchase"},
        {"session_id": "x", "user_id": "u", "item_id": "b"},
    ]
    return train(
        log_frame([*known, *({"session_id": s, "item_id": i} for s in "pqr" for i in "abcdefgh")]),
        small_config(),
    )


def out(
    bundle: Bundle, placement: Placement, session: Session, user: int = -1, *named: str
) -> set[str]:
    rows = rules.excluded(bundle, session, placement, user, named)
    assert rows.tolist() == sorted(set(rows.tolist()))
    return set(bundle.items.ids(rows))


def events(session_id: str, **types: str) -> list[Event]:
    return [
        Event(t, session_id, item, user_id="u", timestamp=float(k))
        for k, (item, t) in enumerate(types.items())
    ]


EVERY_KIND = {"c": "view", "d": "cart", "e": "purchase", "f": "dislike", "stranger": "cart"}
PLACEMENTS = Config().placements


@pytest.mark.parametrize(
    ("placement", "expected"),
    [("default", "def"), ("continue", "f"), ("discover", "cdef"), ("basket", "cdef")],
)
def test_what_this_session_takes_out(bundle: Bundle, placement: str, expected: str) -> None:
    """Views keep an item out where nothing may come again; what was refused is out everywhere."""
    session = Session.from_events(events("s", **EVERY_KIND))
    assert out(bundle, PLACEMENTS[placement], session) == set(expected)


@pytest.mark.parametrize(
    ("placement", "expected"),
    [("default", "agh"), ("continue", "h"), ("discover", "abcgh"), ("basket", "h")],
)
def test_what_earlier_sessions_take_out(bundle: Bundle, placement: str, expected: str) -> None:
    """What was bought before is out where bought items are; what was refused, everywhere; all that
    was touched, live or in training, where only what is new may come."""
    session = Session.from_events([], events("before", g="purchase", h="dislike", c="view"))
    assert out(bundle, PLACEMENTS[placement], session, user=0) == set(expected)


def test_what_is_sought_again_is_refused_no_more(bundle: Bundle) -> None:
    """An item refused last time and touched now may be shown."""
    session = Session.from_events(events("s", h="view"), events("before", h="dislike"))
    assert out(bundle, PLACEMENTS["continue"], session) == set()


def test_named_items_are_out_of_every_placement(bundle: Bundle) -> None:
    """Those the bundle does not know are no row at all."""
    for placement in PLACEMENTS.values():
        assert out(bundle, placement, Session(), -1, "a", "b", "stranger", "a") == {"a", "b"}


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_items_that_training_never_saw_are_barred_alike(bundle: Bundle, placement: str) -> None:
    """What lists may not hold is what they leave out, and the same of items without a row."""
    kinds = {"c": "view", "d": "cart", "e": "purchase", "g": "share"}
    known = Session.from_events(events("s", **kinds))
    strange = Session.from_events(events("s", **{f"new {item}": t for item, t in kinds.items()}))
    none = np.zeros(0, dtype=np.int32)
    single = rules.barred(bundle, known, PLACEMENTS[placement], none)
    assert single == out(bundle, PLACEMENTS[placement], known)
    assert rules.barred(bundle, strange, PLACEMENTS[placement], none) == {
        f"new {i}" for i in single
    }
    rows = rules.excluded(bundle, known, PLACEMENTS[placement], -1, ("a",))
    assert rules.barred(bundle, known, PLACEMENTS[placement], rows) == single | {"a"}
