"""The columns of a catalogue, change by change."""

import random

import numpy as np
import pytest

from recsys.catalog import MOST_COLUMNS, Catalog
from recsys.interactions import IdMap
from recsys.items import Item

NOTHING = IdMap.from_ids([])


def holders(catalog: Catalog, field: str, *values: str | float | bool) -> set[str]:
    """Ids of the items that have one of the values."""
    hits = catalog.column(field).among(values, catalog.slots + 1)
    assert not hits[-1]  # the item that was never named
    return set(catalog.unseen(NOTHING, hits, len(hits)))


def test_an_item_is_found_by_all_its_values() -> None:
    """Each category of an item counts, and what it was before does not."""
    catalog = Catalog()
    catalog.upsert("i1", Item(category=("shoes", "outdoor")))
    catalog.upsert("i2", Item(category=("outdoor",)))
    assert holders(catalog, "category", "outdoor") == {"i1", "i2"}
    catalog.upsert("i1", Item(category=("boots", "shoes", "winter")))
    assert holders(catalog, "category", "outdoor") == {"i2"}
    assert holders(catalog, "category", "winter") == {"i1"}
    catalog.delete("i1")
    assert holders(catalog, "category", "winter", "shoes", "boots", "outdoor") == {"i2"}


def test_numbers_texts_and_truths_are_different_values() -> None:
    """1, "1" and true are three values, as they are in JSON."""
    catalog = Catalog()
    for name, value in {"i1": 1, "i2": "1", "i3": True, "i4": 1.0}.items():
        catalog.upsert(name, Item(properties={"p": value}))
    assert holders(catalog, "properties.p", 1) == {"i1", "i4"}
    assert holders(catalog, "properties.p", "1") == {"i2"}
    assert holders(catalog, "properties.p", True) == {"i3"}
    catalog.upsert("i1", Item(properties={"p": True}))
    assert holders(catalog, "properties.p", True) == {"i1", "i3"}


def test_a_deleted_item_is_hidden_until_it_is_named_again() -> None:
    """Nothing is known of it any more, and it may not be shown."""
    catalog = Catalog()
    catalog.upsert("i1", Item(price=5.0))
    catalog.delete("i1")
    catalog.delete("never named")
    assert (len(catalog), catalog.hidden, catalog.get("i1")) == (0, 2, None)
    assert catalog.visible().tolist() == [False, False, True]
    catalog.upsert("i1", Item(price=6.0))
    assert (len(catalog), catalog.hidden, catalog.get("i1")) == (1, 1, Item(price=6.0))
    assert holders(catalog, "price", 6.0) == {"i1"}


def test_changes_give_what_a_new_catalogue_would_hold() -> None:
    """After thousands of random changes every column is as if made at once."""
    rng = random.Random(3)
    catalog, truth = Catalog(), dict[str, Item]()
    for field in ("category", "price", "in_stock", "title", "properties.p"):
        catalog.column(field)  # from now on kept up to date
    labels = ["a", "b", "c", "d"]
    for _ in range(6000):
        name = f"i{rng.randrange(1500)}"
        if rng.random() < 0.2:
            catalog.delete(name)
            truth.pop(name, None)
            continue
        values = (rng.choice([1, True, "1"]), rng.choice(labels))
        item = Item(
            title=rng.choice(labels),
            category=tuple(rng.sample(labels, rng.randrange(4))),
            price=rng.choice([None, 1.0, 2.0]),
            in_stock=rng.choice([None, True, False]),
            visible=rng.random() < 0.8,
            properties={"p": rng.choice([values, values[0], ()])},
        )
        catalog.upsert(name, item)
        truth[name] = item
    fresh = Catalog()
    for name, item in truth.items():
        fresh.upsert(name, item)
    asked = {
        "category": labels,
        "title": labels,
        "price": [1.0, 2.0],
        "in_stock": [True, False],
        "properties.p": [1, True, "1", "a"],
    }
    for field, values in asked.items():
        for value in values:
            found = holders(catalog, field, value)
            assert found == holders(fresh, field, value), (field, value)
            assert found
    assert len(catalog) == len(fresh) == len(truth)


def test_rows_of_a_bundle_follow_the_catalogue() -> None:
    """Slots stand where a bundle has the item, also for items named after it was first asked."""
    items = IdMap.from_ids([f"i{k}" for k in range(50)])
    catalog = Catalog()
    catalog.upsert("i7", Item())
    catalog.upsert("unseen", Item())
    slots = catalog.rows(items)
    assert (slots[7], slots[8]) == (0, -1)
    catalog.upsert("i8", Item())
    catalog.delete("i9")
    assert catalog.rows(items)[[7, 8, 9, 10]].tolist() == [0, 2, 3, -1]
    others = IdMap.from_ids(["i9", "x"])
    assert catalog.rows(others).tolist() == [3, -1]
    assert catalog.rows(items) is slots
    for k in range(3000):
        catalog.upsert(f"i{k}", Item())
    assert (catalog.rows(items) >= 0).all()
    assert len(np.unique(catalog.rows(items))) == 50


def test_only_a_bounded_number_of_columns_is_kept() -> None:
    """Names that no item has cost nothing, and of others those asked for last stay."""
    catalog = Catalog()
    for k in range(MOST_COLUMNS + 20):
        catalog.upsert(f"i{k}", Item(properties={f"p{k}": k}))
    for k in range(MOST_COLUMNS + 20):
        assert holders(catalog, f"properties.p{k}", k) == {f"i{k}"}
        assert not holders(catalog, f"properties.none{k}", k)
    assert len(catalog._columns) == MOST_COLUMNS
    assert holders(catalog, "properties.p0", 0) == {"i0"}


def test_texts_that_keep_changing_do_not_fill_the_memory() -> None:
    """A column forgets the texts of the past, and still finds those of now."""
    catalog = Catalog()
    for k in range(12_000):
        catalog.upsert("i1", Item(title=f"at {k}"))
        if not k:
            first = catalog.column("title")
    assert catalog.column("title") is not first
    assert holders(catalog, "title", "at 11999") == {"i1"}
    assert not holders(catalog, "title", "at 11998")


@pytest.mark.parametrize("many", [3, 40])
def test_few_values_and_many_are_found_alike(many: int) -> None:
    """However many values are looked for, each item that has one is found, and no other."""
    catalog = Catalog()
    for k in range(100):
        catalog.upsert(f"i{k}", Item(price=float(k), title=f"t{k}"))
    names = {f"i{k}" for k in range(many)}
    assert holders(catalog, "price", *map(float, range(many)), 1000.0) == names
    assert holders(catalog, "title", *(f"t{k}" for k in range(many)), "unknown") == names
