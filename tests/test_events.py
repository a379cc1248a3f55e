"""Events on the wire."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.events import Event, decode, decode_known, encode

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
OPTIONAL = st.none() | TEXT


@given(
    st.builds(
        Event,
        type=TEXT,
        session_id=TEXT,
        item_id=OPTIONAL,
        user_id=OPTIONAL,
        event_id=OPTIONAL,
        timestamp=st.floats(0, 4e9),
        value=st.none() | st.floats(-1e9, 1e9),
        position=st.none() | st.integers(0, 1000),
        properties=st.dictionaries(TEXT, st.integers(-9, 9) | TEXT, max_size=3),
        terms=st.dictionaries(st.sampled_from(["price", "category"]), st.just(["a"])),
    )
)
def test_decode_inverts_encode(event: Event) -> None:
    """An event that went through Redis is the event that came in."""
    assert decode(encode(event)) == event


def test_encode_leaves_empty_fields_out() -> None:
    """What was not given takes no room in Redis."""
    assert encode(Event("view", "s", timestamp=1.0)) == (
        b'{"type":"view","session_id":"s","timestamp":1.0}'
    )


def test_fields_of_a_newer_version_are_left_out() -> None:
    """Of a visitor's events what is understood counts; the others are as they were."""
    plain = Event("view", "s", "i", timestamp=1.0)
    newer = encode(plain)[:-1] + b',"currency":"EUR"}'
    assert decode_known([encode(plain), newer]) == [plain, plain]
    other = b'{"type":"view","session_id":"s","timestamp":"noon"}'
    assert decode_known([encode(plain), other, newer]) == [plain, plain]
    with pytest.raises(TypeError, match="currency"):
        decode(newer)
