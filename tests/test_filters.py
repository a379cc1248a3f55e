"""Filters: read, refused and evaluated."""

import operator
import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.catalog import Catalog
from recsys.filters import MAX_CONDITIONS, MAX_VALUES, Masks, boosts_of, filter_of
from recsys.interactions import IdMap
from recsys.items import FieldError, Item

ITEMS = IdMap.from_ids([f"i{k}" for k in range(6)])


@pytest.fixture
def catalog() -> Catalog:
    """i0 to i3 are known, i4 is hidden, of i5 nothing is known; `unseen` is in no bundle."""
    catalog = Catalog()
    catalog.upsert("i0", Item("Red shoe", ("shoes",), 40.0, True, properties={"brand": "x"}))
    catalog.upsert("i1", Item("Boot", ("boots", "shoes"), 60.0, True, properties={"brand": "y"}))
    catalog.upsert("i2", Item("Sock", ("socks",), 5.0, False, properties={"sizes": (41, 42)}))
    catalog.upsert("i3", Item(price=50.0))
    catalog.upsert("i4", Item("Gone", ("shoes",), 1.0, True, visible=False))
    catalog.upsert("unseen", Item("New", ("shoes",), 45.0, True))
    return catalog


def held(catalog: Catalog, data: dict[str, Any]) -> str:
    """The numbers of the items that hold a filter."""
    mask = Masks(catalog).of(ITEMS, filter_of(data))
    assert mask is not None
    return "".join(str(row) for row in np.flatnonzero(mask))


ANSWERS: list[tuple[dict[str, Any], str]] = [
    ({}, "01235"),
    ({"category": "shoes"}, "01"),
    ({"category": ["socks", "boots"]}, "12"),
    ({"category": {"nin": ["boots"]}}, "0235"),
    ({"category": {"ne": "shoes"}}, "235"),
    ({"price": {"lt": 50}}, "02"),
    ({"price": {"le": 50}}, "023"),
    ({"price": {"gt": 50}}, "1"),
    ({"price": {"ge": 40, "lt": 60}}, "03"),
    ({"price": 50}, "3"),
    ({"price": {"ne": 50}}, "0125"),
    ({"price": {"in": [5, 60]}}, "12"),
    ({"in_stock": True}, "01"),
    ({"in_stock": {"ne": False}}, "0135"),
    ({"properties.brand": {"ne": "x"}}, "1235"),
    ({"properties.brand": "x"}, "0"),
    ({"properties.sizes": 42}, "2"),
    ({"properties.sizes": {"ge": 42}}, "2"),
    ({"properties.unheard": "of"}, ""),
    ({"properties.unheard": {"ne": "of"}}, "01235"),
    ({"title": "Boot"}, "1"),
    ({"item_id": ["i1", "i5", "i4", "unseen", "unknown"]}, "15"),
    ({"item_id": {"ne": "i0"}}, "1235"),
    ({"category": {"in": []}}, ""),
    ({"category": {"nin": []}}, "01235"),
    ({"category": ["shoes", "boots"], "price": {"lt": 50}, "in_stock": True}, "0"),
]


@pytest.mark.parametrize(("data", "answer"), ANSWERS, ids=str)
def test_a_filter_keeps_the_items_that_hold_it(
    catalog: Catalog, data: dict[str, Any], answer: str
) -> None:
    """All conditions must hold; a hidden item never does; what is unknown is only not something."""
    assert held(catalog, data) == answer
    ids = ITEMS.ids(range(len(ITEMS)))
    each = Masks(catalog).held(ids, filter_of(data))
    assert "".join(str(row) for row in np.flatnonzero(each)) == answer


BAD = [
    ([], "filter", "JSON object"),
    ({"prise": 5}, "filter.prise", "did you mean 'price'"),
    ({"visible": True}, "filter.visible", "unknown field"),
    ({"properties": {"brand": "x"}}, "filter.properties", "did you mean 'properties.NAME'"),
    ({"properties.": "x"}, "filter.properties.", "unknown field"),
    ({"price": {"less": 5}}, "filter.price.less", "known: eq, ne"),
    ({"price": {"lt": "50"}}, "filter.price.lt", "must be a number, got '50'"),
    ({"price": {"lt": [50]}}, "filter.price.lt", "must be a number"),
    ({"price": {}}, "filter.price", "needs a value or an operator"),
    ({"price": None}, "filter.price.eq", "must be a number, got None"),
    ({"price": {"in": 5}}, "filter.price.in", "must be a list"),
    ({"price": {"in": [5, "x"]}}, "filter.price.in.1", "must be a number"),
    ({"in_stock": "yes"}, "filter.in_stock.eq", "true or false"),
    ({"category": {"lt": 5}}, "filter.category.lt", "has no order"),
    ({"category": 5}, "filter.category.eq", "must be text"),
    ({"item_id": "x" * 300}, "filter.item_id.eq", "1 to 256 characters"),
    ({"properties.a": {"lt": "b"}}, "filter.properties.a.lt", "must be a number"),
    ({"properties.a": {"eq": {}}}, "filter.properties.a.eq", "must be text, a number"),
    ({"item_id": ["a"] * (MAX_VALUES + 1)}, "filter.item_id.in", f"at most {MAX_VALUES} values"),
    ({f"properties.{k}": 1 for k in range(MAX_CONDITIONS + 1)}, "filter", "at most 100"),
]


@pytest.mark.parametrize(("data", "field", "message"), BAD, ids=range(len(BAD)))
def test_a_filter_that_cannot_be_used_is_refused(data: Any, field: str, message: str) -> None:
    """The error names the path in the filter and what would do."""
    with pytest.raises(FieldError) as caught:
        filter_of(data)
    assert caught.value.field == field
    assert message in caught.value.message
    assert len(str(caught.value)) < 300


def test_boosts_are_one_or_several() -> None:
    """An object is a list of one."""
    stock = {"filter": {"in_stock": True}, "factor": 2}
    (boost,) = boosts_of(stock)
    assert (boost.filter, boost.factor) == (filter_of({"in_stock": True}), 2.0)
    assert boosts_of([stock, stock]) == (boost, boost)
    assert boosts_of([]) == ()


BAD_BOOSTS = [
    (5, "boost", "JSON object"),
    ([{"filter": {"price": 1}, "factor": 20}], "boost.0.factor", "from 0.1 to 10.0, got 20"),
    ({"filter": {"price": 1}, "factor": "2"}, "boost.factor", "must be a number"),
    ({"filter": {"price": 1}}, "boost.factor", "is required"),
    ({"factor": 2}, "boost.filter", "is required"),
    ({"filter": {}, "factor": 2}, "boost.filter", "needs a condition"),
    ({"filter": {"prize": 1}, "factor": 2}, "boost.filter.prize", "did you mean 'price'"),
    ({"filtre": {"price": 1}, "factor": 2}, "boost.filtre", "did you mean 'filter'"),
    ([{}] * 21, "boost", "at most 20"),
]


@pytest.mark.parametrize(("data", "field", "message"), BAD_BOOSTS, ids=range(len(BAD_BOOSTS)))
def test_a_boost_that_cannot_be_used_is_refused(data: Any, field: str, message: str) -> None:
    """The error names the path in the boost and what would do."""
    with pytest.raises(FieldError) as caught:
        boosts_of(data)
    assert caught.value.field == field
    assert message in caught.value.message


def test_the_same_conditions_are_one_filter() -> None:
    """Order and spelling do not matter; types do."""
    one = filter_of({"price": 50, "category": "a", "properties.p": {"lt": 5, "gt": 1}})
    other = filter_of(
        {"properties.p": {"gt": 1.0, "lt": 5}, "category": ["a"], "price": {"eq": 50.0}}
    )
    assert one == other
    assert filter_of({"properties.p": 1}) != filter_of({"properties.p": True})
    assert filter_of({"properties.p": 1}) != filter_of({"properties.p": "1"})


def test_a_mask_is_remembered_until_something_changes_that_it_depends_on(catalog: Catalog) -> None:
    """A change of price leaves a filter by category as it is, and one by price not."""
    masks, by_price, by_kind = (
        Masks(catalog),
        filter_of({"price": {"lt": 50}}),
        filter_of({"category": "shoes"}),
    )
    price, kind = masks.of(ITEMS, by_price), masks.of(ITEMS, by_kind)
    assert masks.of(ITEMS, by_price) is price
    catalog.upsert("i3", Item(price=49.0))
    assert masks.of(ITEMS, by_kind) is kind
    assert np.flatnonzero(masks.of(ITEMS, by_price)).tolist() == [0, 2, 3]
    catalog.upsert("i5", Item(price=1.0, category=("shoes",)))
    assert np.flatnonzero(masks.of(ITEMS, by_price)).tolist() == [0, 2, 3, 5]
    catalog.upsert("i5", Item(price=1.0, category=("shoes",), visible=False))
    assert np.flatnonzero(masks.of(ITEMS, by_kind)).tolist() == [0, 1]
    swapped = IdMap.from_ids(["i1", "x", "i0"])
    assert np.flatnonzero(masks.of(swapped, by_kind)).tolist() == [0, 2]
    assert np.flatnonzero(masks.of(ITEMS, by_kind)).tolist() == [0, 1]


def test_a_mask_is_not_to_be_written_to(catalog: Catalog) -> None:
    """It is the same array for everybody."""
    mask = Masks(catalog).of(ITEMS, filter_of({"price": 50}))
    assert mask is not None
    with pytest.raises(ValueError, match="read-only"):
        mask[0] = True


def test_with_nothing_hidden_and_no_filter_there_is_no_mask() -> None:
    """What does not restrict costs nothing."""
    catalog = Catalog()
    catalog.upsert("i0", Item(price=5.0))
    assert Masks(catalog).of(ITEMS) is None
    assert Masks(catalog).of(ITEMS, filter_of({})) is None
    catalog.delete("i1")
    assert np.flatnonzero(Masks(catalog).of(ITEMS)).tolist() == [0, 2, 3, 4, 5]


def test_what_a_bundle_does_not_know_is_found_too(catalog: Catalog) -> None:
    """Items of the catalogue that no training has seen, those named last first."""
    masks = Masks(catalog)
    catalog.upsert("newer", Item(category=("shoes",), price=10.0))
    catalog.upsert("hidden", Item(category=("shoes",), visible=False))
    shoes = filter_of({"category": "shoes"})
    assert masks.unseen(ITEMS, shoes, 5) == ["newer", "unseen"]
    assert masks.unseen(ITEMS, shoes, 1) == ["newer"]
    assert masks.unseen(ITEMS, None, 5) == ["newer", "unseen"]
    assert masks.unseen(ITEMS, filter_of({"item_id": ["unseen", "i0"]}), 5) == ["unseen"]
    assert masks.unseen(ITEMS, filter_of({"item_id": {"ne": "unseen"}}), 5) == ["newer"]


words = st.sampled_from(["a", "b", "c"])
numbers = st.sampled_from([0, 1, 2.5])
scalars = words | numbers | st.booleans()
items = st.builds(
    Item,
    title=st.none() | words,
    category=st.lists(words, max_size=3, unique=True).map(tuple),
    price=st.none() | numbers,
    in_stock=st.none() | st.booleans(),
    visible=st.booleans(),
    properties=st.dictionaries(
        st.sampled_from(["p", "q"]), scalars | st.lists(scalars, max_size=3).map(tuple)
    ),
)


def wanted(values: st.SearchStrategy[Any], *, ordered: bool = False) -> st.SearchStrategy[Any]:
    """What a filter may say of a field that has such values."""
    several = st.lists(values, max_size=6)
    operators = {"eq": values, "ne": values, "in": several, "nin": several}
    if ordered:
        operators |= dict.fromkeys(("lt", "le", "gt", "ge"), numbers)
    by_operator = st.fixed_dictionaries({}, optional=operators).filter(bool)
    return values | several | by_operator


filters = st.fixed_dictionaries(
    {},
    optional={
        "category": wanted(words),
        "title": wanted(words),
        "price": wanted(numbers, ordered=True),
        "in_stock": wanted(st.booleans()),
        "item_id": wanted(st.sampled_from([f"i{k}" for k in range(8)])),
        "properties.p": wanted(scalars, ordered=True),
        "properties.q": wanted(scalars, ordered=True),
    },
)


def naive(item_id: str, item: Item | None, data: dict[str, Any]) -> bool:
    """One item and one filter, read as the contract says."""
    if item is not None and not item.visible:
        return False
    item = item or Item()
    for name, wish in data.items():
        if name == "item_id":
            value: Any = item_id
        elif name.startswith("properties."):
            value = item.properties.get(name.removeprefix("properties."))
        else:
            value = getattr(item, name)
        values = value if isinstance(value, tuple) else () if value is None else (value,)
        if isinstance(wish, list):
            wish = {"in": wish}
        elif not isinstance(wish, dict):
            wish = {"eq": wish}
        if not all(naive_holds(values, *condition) for condition in wish.items()):
            return False
    return True


def naive_holds(values: tuple[Any, ...], name: str, wish: Any) -> bool:
    def is_number(value: object) -> bool:
        return isinstance(value, int | float) and not isinstance(value, bool)

    def same(one: object, other: object) -> bool:
        return one == other and is_number(one) == is_number(other)

    if name in ("eq", "ne"):
        name, wish = {"eq": "in", "ne": "nin"}[name], [wish]
    if name in ("in", "nin"):
        found = any(same(value, one) for value in values for one in wish)
        return found == (name == "in")
    return any(is_number(value) and getattr(operator, name)(value, wish) for value in values)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.sampled_from([f"i{k}" for k in range(6)]), items), filters, filters)
def test_masks_are_what_one_item_at_a_time_gives(
    known: dict[str, Item], first: dict[str, Any], second: dict[str, Any]
) -> None:
    """For any items and filters, before and after changes, in the order asked for and again."""
    catalog, rng = Catalog(), random.Random(len(known))
    masks = Masks(catalog)
    state: dict[str, Item] = {}

    def check() -> None:
        for data in (first, second, first):
            mask = masks.of(ITEMS, filter_of(data))
            got = list(range(6)) if mask is None else np.flatnonzero(mask).tolist()
            ids = ITEMS.ids(range(6))
            assert got == [k for k, i in enumerate(ids) if naive(i, state.get(i), data)]

    for item_id, item in known.items():
        catalog.upsert(item_id, item)
        state[item_id] = item
    check()
    for item_id in rng.sample(list(known), len(known) // 2):
        catalog.delete(item_id)
        state[item_id] = Item(visible=False)
    for item_id, item in zip(rng.sample(list(known), len(known)), known.values(), strict=True):
        catalog.upsert(item_id, item)
        state[item_id] = item
        check()
