"""Items that nobody has touched: in lists for what the shop says of them."""

import dataclasses
from typing import Any

import numpy as np
import polars as pl
import pytest

from recsys.aggregates import Aggregates, ranking_by
from recsys.bundle import Bundle, load, save
from recsys.catalog import Catalog
from recsys.config import Placement
from recsys.events import Event
from recsys.filters import Beyond, Masks, filter_of
from recsys.interactions import IdMap
from recsys.items import Item
from recsys.logs import Log, log_from_frame
from recsys.recommend import Request, recommend, similar
from recsys.session import Session
from recsys.side_index import MOST, SideIndex
from recsys.training import train
from recsys.unseen import Unseen
from tests.synthetic import log_frame, small_config
from tests.test_newcomers import coming, told
from tests.test_training import RANKED

KINDS = 10
# Of fewer than there are, as in a shop of any size, it means something to be found.
NARROW = {"session_embedding": 30}


def kind_of(item: str) -> int:
    """Neighbours on the walk are of a kind, old editions and new ones."""
    return int(item.rpartition("-")[2].removeprefix("i")) // 4


def sold() -> dict[str, Item]:
    """All that was ever sold, and an item of each kind that nobody has seen."""
    names = coming()["item_id"].unique(maintain_order=True)
    told = {name: Item(category=(f"k{kind_of(name)}",)) for name in names}
    return told | {f"fresh{kind}": Item(category=(f"k{kind}",)) for kind in range(KINDS)}


def log_of(items: dict[str, Item] | None = None) -> Log:
    return dataclasses.replace(log_from_frame(coming()), items=sold() if items is None else items)


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    trained = train(log_of(), small_config(**RANKED, retrieval=NARROW))
    assert trained.facts.ranker.startswith("forest of")
    return trained


def visitor(bundle: Bundle, *items: str) -> Session:
    events = [Event("view", "s", item, timestamp=float(k)) for k, item in enumerate(items)]
    nothing = Aggregates(ranking_by(bundle.config))
    return Session.from_events(events, config=bundle.config.session, aggregates=nothing)


def fresh(answer: Any) -> list[str]:
    both = zip(answer.item_ids, answer.reasons, strict=True)
    found = [item for item, reason in both if reason == "unseen"]
    assert all(item.startswith("fresh") for item in found)
    return found


def shelf(*items: str, **fields: Any) -> Catalog:
    catalog = Catalog()
    for item in items:
        catalog.upsert(item, Item(category=(f"k{kind_of(item)}",), **fields))
    return catalog


def test_what_the_bundle_was_told_of_is_recommended(bundle: Bundle) -> None:
    """An item of the kind that the visitor looks at is among those nobody has touched."""
    assert 0 < bundle.facts.metrics["attribute_cosine"] <= 1
    for at in (5, 13, 21, 33):
        answer = recommend(bundle, visitor(bundle, f"i{at}", f"i{at + 1}"), Request(n=60))
        assert f"fresh{kind_of(f'i{at}')}" in fresh(answer)
        assert len(fresh(answer)) <= bundle.config.retrieval.unseen
        assert answer.scores == sorted(answer.scores, reverse=True)


@pytest.mark.parametrize("net_weight", [0.0, 0.8])
@pytest.mark.parametrize(("hidden", "place"), [(0.0, (15, 61)), (0.2, (1, 10))])
def test_the_ranker_meets_some_that_sell(
    hidden: float, place: tuple[int, int], net_weight: float
) -> None:
    """Where the tails that it learns from hold known items as if nobody had touched them, it puts
    those of the right kind before most others; else it learns that they are never bought."""
    ranker = {**RANKED["ranker"], "hidden": hidden, "net_weight": net_weight}
    trained = train(log_of(), small_config(**{**RANKED, "ranker": ranker}))
    assert set(trained.items.ids(range(len(trained.items)))) >= {"i5", "i6", "i7"}
    for at in (5, 13, 21, 33):
        answer = recommend(trained, visitor(trained, f"i{at}", f"i{at + 1}"), Request(n=60))
        found = answer.item_ids.index(f"fresh{kind_of(f'i{at}')}") + 1
        assert place[0] <= found <= place[1]


def test_a_placement_may_keep_places_for_them(bundle: Bundle) -> None:
    """Of the items near the visitor that nobody has touched: at the list's end, where the ranking
    gave them no place; not the one that this visitor is looking at."""
    usual = bundle.config.placements["default"]
    placements = {"default": usual, "explore": dataclasses.replace(usual, explore=0.3)}
    config = dataclasses.replace(bundle.config, placements=placements)
    exploring = dataclasses.replace(bundle, config=config)
    session = visitor(exploring, "i21", "i22")
    before = recommend(exploring, session, Request(n=10))
    after = recommend(exploring, session, Request(n=10, placement="explore"))
    lacking = 3 - len(fresh(before))
    assert lacking > 0
    assert len(fresh(after)) == 3
    assert "fresh5" in fresh(after)
    assert after.item_ids[: 10 - lacking] == before.item_ids[: 10 - lacking]
    assert after.reasons[-lacking:] == ["unseen"] * lacking
    assert after.scores == sorted(after.scores, reverse=True)
    seen = visitor(exploring, "i21", "i22", "fresh5")
    answer = recommend(exploring, seen, Request(n=10, placement="explore"))
    assert len(fresh(answer)) >= 3
    assert answer.item_ids[-1] != "fresh5"


def test_no_place_is_kept_for_what_others_have_touched(bundle: Bundle) -> None:
    """Be it new to the bundle, and nobody came to it from where this visitor is."""
    usual = bundle.config.placements["default"]
    exploring = dataclasses.replace(
        bundle,
        config=dataclasses.replace(
            bundle.config, placements={"explore": dataclasses.replace(usual, explore=0.1)}
        ),
    )
    session = visitor(exploring, "i21", "i22")
    (best,) = fresh(recommend(exploring, session, Request(n=10, placement="explore")))
    elsewhere = told(exploring, f"i1 {best}", f"i1 {best}")
    session = dataclasses.replace(session, aggregates=elsewhere)
    answer = recommend(exploring, session, Request(n=10, placement="explore"))
    assert len(set(fresh(answer)) - {best}) == 1


def test_without_what_the_shop_says_there_are_none() -> None:
    """Neither candidates nor a figure, and the lists are those of ever."""
    without = train(log_of({}), small_config(**RANKED, retrieval=NARROW))
    assert "attribute_cosine" not in without.facts.metrics
    assert len(without.unseen.names) == 0
    answer = recommend(without, visitor(without, "i5"), Request(n=60))
    assert "unseen" not in answer.reasons


def test_a_bundle_keeps_what_it_was_told(bundle: Bundle, tmp_path: Any) -> None:
    """Written and read again, the lists are the same."""
    save(bundle, tmp_path)
    again, session = load(tmp_path), visitor(bundle, "i5", "i6")
    asked = Request(n=60)
    assert recommend(again, session, asked).item_ids == recommend(bundle, session, asked).item_ids


def test_sources_of_a_placement(bundle: Bundle) -> None:
    """A placement may do without them, or ask them beside one source."""

    def with_sources(*sources: str) -> Bundle:
        placements = {**bundle.config.placements, "default": Placement(sources=sources)}
        return dataclasses.replace(
            bundle, config=dataclasses.replace(bundle.config, placements=placements)
        )

    session = visitor(bundle, "i5", "i6")
    assert not fresh(recommend(with_sources("session_knn"), session, Request(n=60)))
    assert not fresh(recommend(with_sources("session_knn", "newcomers"), session, Request(n=60)))
    assert fresh(recommend(with_sources("session_knn", "unseen"), session, Request(n=60)))


def test_the_catalogue_of_now_counts(bundle: Bundle) -> None:
    """What it names, changes, hides and deletes since training holds at once; the bundle's own
    items count only where there is no catalogue."""
    catalog = shelf("i5", "i6")
    side, beyond = SideIndex(catalog), Beyond(Masks(catalog))
    session = visitor(bundle, "i5", "i6")

    def found(**wanted: object) -> list[str]:
        held = dataclasses.replace(beyond, wanted=filter_of(wanted))
        asked = Request(n=60, beyond=held, unseen=side.of(bundle))
        answer = recommend(bundle, session, asked)
        return [i for i, r in zip(answer.item_ids, answer.reasons, strict=True) if r == "unseen"]

    assert SideIndex(Catalog()).of(bundle) is bundle.unseen
    assert found() == []
    catalog.upsert("new-9", Item(category=("k9",)))
    catalog.upsert("new-1", Item(category=("k1",), price=5.0))
    assert found()[0] == "new-1"
    assert found(price={"gt": 5}) == []
    assert found(price=5) == ["new-1"]
    catalog.upsert("new-1", Item(category=("k1",), visible=False))
    assert "new-1" not in found()
    catalog.upsert("new-1", Item(category=("k1",)))
    assert found()[0] == "new-1"
    near = side.of(bundle).vectors_of(["new-1"])
    catalog.upsert("new-1", Item(category=("k7",)))
    catalog.upsert("new-2", Item(category=("k1",)))
    assert np.array_equal(side.of(bundle).vectors_of(["new-2"]), near)
    assert not np.allclose(side.of(bundle).vectors_of(["new-1"]), near)
    assert found()[0] == "new-2"
    catalog.delete("new-2")
    assert "new-2" not in found()


def test_a_side_index_is_what_a_new_one_would_be(bundle: Bundle) -> None:
    """After any changes; of many items those named last are in it."""
    rng, catalog = np.random.default_rng(1), Catalog()
    catalog.upsert("i5", Item())
    side = SideIndex(catalog)
    for _ in range(60):
        for _ in range(int(rng.integers(3))):
            name, kind = f"n-{rng.integers(20)}", rng.integers(KINDS + 1)
            if rng.random() < 0.1:
                catalog.delete(name)
            else:
                item = Item(category=(f"k{kind}",), visible=bool(rng.random() < 0.8))
                catalog.upsert(name, item)
        ours, anew = side.of(bundle), SideIndex(catalog).of(bundle)
        assert list(ours.names) == list(anew.names)
        assert np.array_equal(ours.vectors, anew.vectors)
    for k in range(MOST + 5):
        catalog.upsert(f"more{k}", Item(category=("k1",)))
    names = side.of(bundle).names
    assert (len(names), names[0], names[-1]) == (MOST, f"more{MOST + 4}", "more5")


def test_a_visit_to_an_item_that_nobody_knows(bundle: Bundle) -> None:
    """What the shop says of it is what the list goes by, and so are the items like it."""
    answer = recommend(bundle, visitor(bundle, "fresh5"), Request())
    assert answer.tier == "ranker"
    assert answer.reasons.count("session_embedding") > 10
    other = recommend(bundle, visitor(bundle, "fresh1"), Request())
    assert answer.item_ids != other.item_ids
    near = similar(bundle, "fresh5", 8).item_ids
    assert len(near) == 8
    assert "fresh5" not in near
    assert near != similar(bundle, "fresh1", 8).item_ids
    catalog = shelf("new-5", "i20")
    unseen = SideIndex(catalog).of(bundle)
    assert similar(bundle, "new-5", 8, unseen=unseen).item_ids
    for known in ("unheard", "new-5"):
        with pytest.raises(KeyError):
            similar(bundle, known, 8)


def test_nearest_are_ordered_and_bounded() -> None:
    """Ties by name, nothing that points away, no more than asked for."""
    vectors = np.array([[1, 0], [0, 1], [1, 0], [-1, 0], [0.6, 0.8]], dtype=np.float32)
    unseen, taste = Unseen(["b", "c", "a", "d", "e"], vectors), np.array([1, 0], np.float32)
    assert [*unseen.nearest(taste, 9)] == ["a", "b", "e"]
    assert unseen.nearest(taste, 2) == {"a": 1.0, "b": 1.0}
    assert unseen.nearest(taste, 0) == {}
    assert Unseen().nearest(taste, 3) == {}
    assert np.array_equal(unseen.vectors_of(["x", "e"]), [[0, 0], vectors[4]])
    assert np.allclose(unseen.taste(["x", "a", "c"]), np.sqrt([0.5, 0.5]))
    assert not unseen.taste(["x"]).any()


def test_baskets_hold_them_too() -> None:
    """Where the order of events says nothing and no stream is asked."""
    frame = coming().with_columns(timestamp=pl.col("timestamp").min().over("session_id"))
    log = dataclasses.replace(log_from_frame(frame), items=sold())
    bundle = train(log, small_config(**RANKED, retrieval=NARROW))
    assert bundle.config.session.order == "ignored"
    assert bundle.config.retrieval.newcomers == 0
    answer = recommend(bundle, visitor(bundle, "i21", "i22"), Request(n=60))
    assert "fresh5" in fresh(answer)


def test_a_catalogue_of_known_items_alone(bundle: Bundle) -> None:
    """Has nothing unseen in it, whatever is said of its items."""
    ids = bundle.items.ids(range(len(bundle.items)))
    items = {name: Item(category=("k1",)) for name in ids}
    found = train(log_of(items), small_config(**RANKED, retrieval=NARROW))
    assert len(found.unseen_items) == 0
    assert isinstance(found.unseen_items, IdMap)
    assert "unseen" not in recommend(found, visitor(found, "i5"), Request(n=60)).reasons


def test_rows_of_a_log_name_no_more_items_than_before() -> None:
    """What the shop says of an item does not make it one of the log's."""
    frame = log_frame([{"session_id": f"s{k % 4}", "item_id": f"i{k % 5}"} for k in range(40)])
    log = dataclasses.replace(log_from_frame(frame), items={"other": Item(title="x")})
    assert train(log, small_config()).facts.counts["items"] == 5
