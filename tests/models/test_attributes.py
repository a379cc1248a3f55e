"""What a shop says of items as a place in the session embedding."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.interactions import IdMap
from recsys.items import Item
from recsys.models import attributes
from recsys.models.attributes import Fitted, embedded, fit, terms_of

KINDS, D = 6, 16


def shop(items: int, seed: int = 0) -> tuple[dict[str, Item], np.ndarray]:
    """Items of a kind and a colour, whose vectors are those of both together, and some noise."""
    rng = np.random.default_rng(seed)
    kinds, colours = rng.normal(size=(KINDS, D)), rng.normal(size=(3, D))
    told, vectors = {}, []
    for k in range(items):
        kind, colour = k % KINDS, (k // KINDS) % 3
        told[f"i{k}"] = Item(title=f"Kind{kind}, no. {k}", properties={"colour": f"c{colour}"})
        vectors.append(kinds[kind] + colours[colour] + 0.1 * rng.normal(size=D))
    made = np.array(vectors, dtype=np.float32)
    return told, made / np.linalg.norm(made, axis=1, keepdims=True)


def fitted(known: int, items: int = 300) -> tuple[Fitted, np.ndarray]:
    told, vectors = shop(items)
    ids = IdMap.from_ids([f"i{k}" for k in range(known)])
    return fit(vectors[:known], np.ones(known, np.float32), ids, told, 42), vectors


def test_terms_are_categories_words_and_kinds() -> None:
    """Each once; numbers and long texts tell no kind, and a title counts without case."""
    properties = {"size": ("S", "M"), "new": True, "weight": 2.5, "text": "x" * 65}
    item = Item("Red SHOE, red", ("shoes", "sale"), 9.0, True, properties=properties)
    assert terms_of(item) == [
        *("category=shoes", "category=sale", "title=red", "title=shoe"),
        *("properties.size=S", "properties.size=M", "properties.new=True"),
    ]
    assert terms_of(Item(price=3.0)) == []


def test_an_item_that_nobody_touched_stands_near_its_like() -> None:
    """Its vector is nearly what training would have given it."""
    found, vectors = fitted(known=250)
    names = found.unseen.ids(range(len(found.unseen)))
    assert names == [f"i{k}" for k in range(250, 300)]
    cosines = (found.attributes.unseen * vectors[250:]).sum(axis=1)
    assert cosines.min() > 0.9
    assert found.cosine == pytest.approx(float(cosines.mean()), abs=0.05)
    assert np.allclose(np.linalg.norm(found.attributes.unseen, axis=1), 1, atol=1e-5)


def test_what_tells_nothing_stands_nowhere() -> None:
    """No vector for items of unknown terms alone, and no map where none is of two items."""
    found, _ = fitted(known=250)
    told = [["title=unheard"], [], ["title=unheard", "title=kind1"]]
    vectors = embedded(found.terms, found.attributes, told)
    assert not vectors[:2].any()
    assert vectors[2].any()
    ids, ones = IdMap.from_ids(["a", "b"]), np.ones(2, np.float32)
    alone = {"a": Item(title="x"), "b": Item(title="y"), "c": Item(title="x y")}
    for vectors, told_items in (
        (np.eye(2, dtype=np.float32), {"a": Item(title="x"), "b": Item(title="y")}),
        (np.zeros((0, D), np.float32), alone),
        (np.zeros((2, D), np.float32), alone),
        (np.eye(2, dtype=np.float32), {}),
    ):
        nothing = fit(vectors, ones, ids, told_items, 42)
        assert (len(nothing.terms), len(nothing.unseen)) == (0, 0)
        assert np.isnan(nothing.cosine)


def test_the_most_frequent_terms_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many there are, the regression stays small."""
    monkeypatch.setattr(attributes, "MOST_TERMS", KINDS)
    found, _ = fitted(known=250)
    terms = found.terms.ids(range(len(found.terms)))
    assert len(terms) == KINDS
    assert "title=no" in terms  # every title has it


@given(
    told=st.lists(
        st.lists(st.sampled_from([f"t{k}" for k in range(8)]), unique=True, max_size=6), max_size=10
    )
)
def test_vectors_come_one_by_one_as_together(told: list[list[str]]) -> None:
    """An item's vector depends on its own terms alone, and not on their order."""
    rng = np.random.default_rng(3)
    terms = IdMap.from_ids([f"t{k}" for k in range(5)])
    nothing = np.zeros((0, D), np.float32)
    vectors, mean = rng.normal(size=(5, D)).astype(np.float32), np.full(D, 0.1, np.float32)
    mapped = attributes.Attributes(vectors, mean, nothing)
    together = embedded(terms, mapped, told)
    assert together.shape == (len(told), D)
    for one, own in zip(together, told, strict=True):
        assert np.allclose(embedded(terms, mapped, [own[::-1]])[0], one, atol=1e-6)
        assert one.any() == any(term in terms for term in own)
