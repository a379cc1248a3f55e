"""What a shop says of an item, and changes to it."""

import math
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.items import (
    FIELDS,
    FieldError,
    Item,
    change_of,
    decode,
    encode,
    fields_of,
    listed_change_of,
    merged,
)

SHOE = {
    "title": "Trail shoe",
    "category": ["shoes", "outdoor"],
    "price": 79.5,
    "in_stock": True,
    "image_url": "https://shop.example/shoe.jpg",
    "visible": False,
    "properties": {"brand": "x", "sizes": [41, 42], "vegan": True, "weight": 0.3},
}


def item(**fields: Any) -> Item:
    return merged(None, change_of(fields))


def test_an_item_holds_what_was_said() -> None:
    """Every field arrives, a single category is one of a list, and it is read back the same."""
    assert fields_of(item(**SHOE)) == SHOE
    assert item(category="shoes").category == ("shoes",)
    assert fields_of(item()) == {"visible": True}


def test_fields_that_are_not_given_stay() -> None:
    """A change of price is nothing else."""
    changed = merged(item(**SHOE), change_of({"price": 60}))
    assert fields_of(changed) == SHOE | {"price": 60}


@pytest.mark.parametrize("name", FIELDS)
def test_null_clears_a_field(name: str) -> None:
    """What is null is as if it had never been said."""
    cleared = merged(item(**SHOE), change_of({name: None}))
    assert cleared == item(**{k: v for k, v in SHOE.items() if k != name})


def test_properties_change_one_by_one() -> None:
    """A property that is not given stays, null takes it away, another value replaces it."""
    change = change_of({"properties": {"brand": None, "sizes": 43, "new": "yes"}})
    after = merged(item(**SHOE), change).properties
    assert after == {"sizes": 43, "vegan": True, "weight": 0.3, "new": "yes"}


BAD = [
    ({"prise": 5}, "prise", "unknown field; did you mean 'price'"),
    ({"item_id": "a"}, "item_id", "unknown field"),
    ({"title": ""}, "title", "1 to 1000 characters, got 0"),
    ({"title": "x" * 1001}, "title", "1 to 1000 characters, got 1001"),
    ({"title": 5}, "title", "must be text, got 5"),
    ({"title": "\ud800"}, "title", "lone surrogate"),
    ({"category": ["a", 5]}, "category.1", "must be text"),
    ({"category": [str(k) for k in range(101)]}, "category", "at most 100"),
    ({"category": {}}, "category", "must be text"),
    ({"price": -1}, "price", "must not be negative"),
    ({"price": "5"}, "price", "must be a number, got '5'"),
    ({"price": True}, "price", "must be a number, got True"),
    ({"price": math.nan}, "price", "finite"),
    ({"price": 10**400}, "price", "finite"),
    ({"in_stock": 1}, "in_stock", "true or false"),
    ({"visible": "no"}, "visible", "true or false"),
    ({"image_url": "x" * 3000}, "image_url", "1 to 2048"),
    ({"properties": []}, "properties", "JSON object"),
    ({"properties": {"a": {}}}, "properties.a", "or a list of such"),
    ({"properties": {"a": [[]]}}, "properties.a.0", "or a list of such"),
    ({"properties": {"a": [None]}}, "properties.a.0", "got None"),
    ({"properties": {"a": math.inf}}, "properties.a", "finite"),
    ({"properties": {"a": 2**70}}, "properties", "64 bits"),
    ({"properties": {"": 1}}, "properties.", "1 to 256 characters"),
    ({"properties": {str(k): k for k in range(65)}}, "properties", "at most 64, got 65"),
    ({"properties": {"a": ["x" * 9000, "y" * 9000]}}, "properties", "at most 16384 bytes"),
    ([], "item", "JSON object"),
]


@pytest.mark.parametrize(("data", "field", "message"), BAD, ids=range(len(BAD)))
def test_what_cannot_be_used_is_named(data: Any, field: str, message: str) -> None:
    """The error has the path of the field, says what is wrong, and is not endless."""
    with pytest.raises(FieldError) as caught:
        change_of(data)
    assert caught.value.field == field
    assert message in caught.value.message
    assert len(str(caught.value)) < 300


def test_properties_may_not_grow_beyond_their_bounds() -> None:
    """Many small changes are held to the same size as a single one."""
    many = item(properties={str(k): k for k in range(64)})
    with pytest.raises(FieldError, match="properties: must be at most 64, got 65"):
        merged(many, change_of({"properties": {"one more": 1}}))
    replaced = merged(many, change_of({"properties": {"0": None, "one more": 1}}))
    assert len(replaced.properties) == 64


@pytest.mark.parametrize("bad", [None, "", 7, "x" * 257])
def test_an_item_of_a_list_needs_its_id(bad: object) -> None:
    """The id is text of 1 to 256 characters; with one, the rest is a change as any."""
    assert listed_change_of({"item_id": "a/1", "price": 5}) == ("a/1", {"price": 5.0})
    with pytest.raises(FieldError, match="item_id: "):
        listed_change_of({"item_id": bad} if bad is not None else {"price": 5})


scalars = st.one_of(
    st.text(max_size=8),
    st.booleans(),
    st.integers(-(2**53), 2**53),
    st.floats(allow_nan=False, allow_infinity=False),
)
labels = st.text(min_size=1, max_size=5).filter(str.isprintable)
items = st.builds(
    Item,
    title=st.none() | labels,
    category=st.lists(labels, max_size=3, unique=True).map(tuple),
    price=st.none() | st.floats(0, 1e12),
    in_stock=st.none() | st.booleans(),
    image_url=st.none() | labels,
    visible=st.booleans(),
    properties=st.dictionaries(
        labels, scalars | st.lists(scalars, max_size=3).map(tuple), max_size=3
    ),
)


@given(items)
def test_what_is_stored_is_read_back(value: Item) -> None:
    """Any item survives its form in Redis."""
    assert decode(encode(value)) == value


def test_an_item_of_a_later_version_is_read() -> None:
    """Fields that this version does not know do not keep it from those it does."""
    assert decode(b'{"price":5.0,"visible":true,"weight":[1]}') == Item(price=5.0)


json_values = st.recursive(
    st.none() | scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from([*FIELDS, "x"]), json_values) | json_values)
def test_anything_is_read_or_refused(data: object) -> None:
    """Whatever JSON arrives gives an item that can be stored, or an error with a field."""
    with suppress(FieldError):
        assert decode(encode(value := merged(None, change_of(data)))) == value
