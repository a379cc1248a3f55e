"""The catalogue in the store and in the processes that follow it, on a real server."""

import asyncio
from typing import Any

import pytest
from redis import Redis

from recsys.embedded import EmbeddedRedis
from recsys.events import Event, decode
from recsys.filters import filter_of
from recsys.interactions import IdMap
from recsys.items import FieldError, Item, change_of, encode
from recsys.shelf import FOLLOWED, NOWHERE, Shelf, shelved
from recsys.store import CODE, Library, Store, StoreConfig, log_key, partition_of
from recsys.training import train
from tests.synthetic import log_frame

pytestmark = pytest.mark.anyio

ROWS = IdMap.from_ids([f"i{k}" for k in range(20)])
CHEAP = filter_of({"price": {"lt": 10}})


async def put(store: Store, item_id: str, **fields: Any) -> Item | FieldError:
    (outcome,) = await store.put_items([(item_id, change_of(fields))])
    return outcome


def cheap(shelf: Shelf) -> list[str]:
    mask = shelf.allowed(ROWS, CHEAP)
    assert mask is not None
    return ROWS.ids(mask.nonzero()[0])


async def test_fields_that_are_not_given_stay(store: Store) -> None:
    """A change is merged into what is known, whoever changed it before."""
    assert await store.item("i1") is None
    await put(store, "i1", title="Shoe", price=5, properties={"brand": "x", "sizes": []})
    changed = await put(store, "i1", price=0.1 + 0.2, properties={"brand": None, "big": 2**62 + 1})
    expected = Item(title="Shoe", price=0.1 + 0.2, properties={"sizes": (), "big": 2**62 + 1})
    assert changed == expected == await store.item("i1")


async def test_no_change_is_lost_among_many(store: Store, redis_server: EmbeddedRedis) -> None:
    """Of two stores that change one item at once, each keeps what the other said."""
    other = Store(redis_server.url, store.config)
    await asyncio.gather(
        *(
            put(one, "i1", properties={f"{name}{k}": k})
            for name, one in (("a", store), ("b", other))
            for k in range(30)
        )
    )
    item = await store.item("i1")
    assert item is not None
    assert len(item.properties) == 60
    await other.close()


async def test_changes_of_one_batch_follow_each_other(store: Store) -> None:
    """The later one wins, also when the first of them meets what it did not know of."""
    await put(store, "i1", title="old", price=1)
    changes: list[dict[str, Any]] = [{"price": 2}, {"price": 1}, {"price": 3, "title": None}]
    outcomes = await store.put_items([("i1", change_of(change)) for change in changes])
    assert outcomes == [Item("old", price=2.0), Item("old", price=1.0), Item(price=3.0)]
    assert await store.item("i1") == Item(price=3.0)


async def test_what_cannot_be_merged_is_told_and_spoils_nothing(store: Store) -> None:
    """An item that would grow too large stays what it is; others of the batch change."""
    await put(store, "i1", properties={str(k): k for k in range(64)})
    changes = [("i1", change_of({"properties": {"one": 1}})), ("i2", change_of({"price": 5}))]
    flaw, changed = await store.put_items(changes)
    assert isinstance(flaw, FieldError)
    assert flaw.message == "must be at most 64, got 65"
    assert changed == Item(price=5.0)
    assert len((await store.item("i1") or Item()).properties) == 64


async def test_saying_the_same_again_tells_nobody(store: Store) -> None:
    """A shop that sends all its items every night makes no changes of them."""
    await put(store, "i1", price=5)
    shelf = await shelved(store)
    await put(store, "i1", price=5.0)
    await store.delete_item("i2")
    await store.delete_item("i2")
    assert len(await store.follow_items(shelf.place)) == 2  # where it stands, and one deletion


async def test_two_shelves_see_a_change_at_their_next_look(store: Store) -> None:
    """Upserts, deletions and returns, with the visitor's read or on their own."""
    shelves = [await shelved(store), await shelved(store)]
    for change in ({"price": 5}, {"price": 50}, {"visible": False, "price": 5}, {"visible": True}):
        await put(store, "i1", **change)
        expected = ["i1"] if change in ({"price": 5}, {"visible": True}) else []
        for k, shelf in enumerate(shelves):
            if shelf.place == NOWHERE:
                assert not await shelf.catch_up(store)
                shelves[k] = await shelved(store)
            else:
                live = await store.read(None, None, items_place=shelf.place)
                assert shelf.apply(live.items)
            assert cheap(shelves[k]) == expected
    await store.delete_item("i1")
    await store.delete_item("i2")
    for shelf in shelves:
        assert await shelf.catch_up(store)
        assert (cheap(shelf), shelf.catalog.hidden, shelf.known) == ([], 2, {})
    await put(store, "i1", price=6)
    late = await shelved(store)
    assert await shelves[0].catch_up(store)
    for shelf in (shelves[0], late):
        assert (cheap(shelf), shelf.catalog.hidden) == (["i1"], 1)
        assert shelf.known == {"i1": encode(Item(price=6.0))}


async def test_many_changes_are_followed_in_parts(store: Store) -> None:
    """More than are taken at a time: one look tells that there are more, catching up takes all."""
    await put(store, "i0", price=1)
    shelf = await shelved(store)
    count = 2 * FOLLOWED + 10
    await store.put_items([(f"n{k}", change_of({"price": k})) for k in range(count)])
    live = await store.read(None, None, items_place=shelf.place, items_most=FOLLOWED)
    assert not shelf.apply(live.items)
    assert len(shelf.known) == FOLLOWED + 1
    assert await shelf.catch_up(store)
    assert len(shelf.known) == count + 1
    assert shelf.apply(live.items[:FOLLOWED])  # an answer that came late takes nothing back
    assert shelf.catalog.get(f"n{count - 1}") == Item(price=float(count - 1))


async def test_a_shelf_that_fell_behind_is_told(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stream of changes is cut, and whoever stands before the cut has to read everything."""
    code = CODE.replace("ITEM_CHANGES_KEPT = 10000", "ITEM_CHANGES_KEPT = 10")
    assert code != CODE
    monkeypatch.setattr("recsys.store.LIBRARY", Library.of(code))
    await put(store, "i1", price=1)
    shelf = await shelved(store)
    await store.put_items([(f"n{k}", change_of({"price": k})) for k in range(400)])
    assert not await shelf.catch_up(store)
    assert len((await shelved(store)).known) == 401


async def test_a_store_that_lost_its_data_is_noticed(
    store: Store, redis_server: EmbeddedRedis
) -> None:
    """Nothing is there any more, or something else is, or only the last change is missing."""
    await put(store, "i1", price=1)
    before = await shelved(store)
    await put(store, "i1", price=2)
    key = f"{{{store.config.namespace}}}:items"
    with Redis.from_url(redis_server.url) as redis:
        full = await shelved(store)
        redis.xdel(f"{key}:changes", full.place)  # as after a fall back to a replica
        assert not await full.catch_up(store)
        redis.delete(key, f"{key}:changes")
    assert not await before.catch_up(store)
    await put(store, "i2", price=3)
    assert not await before.catch_up(store)
    assert set((await shelved(store)).known) == {"i2"}


async def test_declaring_aggregates_anew_leaves_items_alone(store: Store) -> None:
    """Their epoch is not that of the catalogue."""
    await put(store, "i1", price=1)
    shelf = await shelved(store)
    await store.declare([])
    assert await shelf.catch_up(store)
    assert await store.item("i1") == Item(price=1.0)


async def test_a_bundle_is_aligned_elsewhere(store: Store) -> None:
    """What is named while a thread looks items up is in the alignment too."""
    await store.put_items([(f"i{k}", change_of({"price": k})) for k in range(5)])
    shelf = await shelved(store)
    bundle = train(log_frame([{"session_id": "s", "item_id": f"i{k}"} for k in range(20)]))
    items = bundle.items
    aligning = asyncio.create_task(shelf.align(bundle))
    await asyncio.sleep(0)
    await put(store, "i7", price=7)
    await put(store, "i12", price=12)
    assert await shelf.catch_up(store)
    await aligning
    mask = shelf.allowed(items, CHEAP)
    assert mask is not None
    assert {*items.ids(mask.nonzero()[0])} == {"i0", "i1", "i2", "i3", "i4", "i7"}
    assert shelf.catalog.rows(items) is shelf.catalog.rows(items)


async def test_the_log_notes_price_and_category_of_the_moment(
    store: Store, redis_server: EmbeddedRedis
) -> None:
    """Of items of which they are known when the event is accepted."""

    async def click(item_id: str) -> None:
        await store.append([Event("click", "s", item_id, timestamp=1.0)])

    await click("i1")
    await put(store, "i1", price=5, category=["a", "b"], title="t")
    await click("i1")
    await put(store, "i1", price=None)
    await click("i1")
    await put(store, "i1", category=None)
    await click("i1")
    await put(store, "i1", price=7)
    await store.delete_item("i1")
    await click("i1")
    key = log_key(store.config, partition_of("s", store.config))
    with Redis.from_url(redis_server.url) as redis:
        log: Any = redis.xrange(key)
    noted = [decode(fields[b"e"]).terms for _, fields in log]
    both = {"price": 5.0, "category": ["a", "b"]}
    assert noted == [{}, both, {"category": ["a", "b"]}, {}, {}]
    assert [event.terms for event in (await store.read("s", None)).events] == noted


async def test_namespaces_have_catalogues_of_their_own(
    store: Store, redis_server: EmbeddedRedis
) -> None:
    """What one engine's shop says is nothing to another's."""
    await put(store, "i1", price=5)
    other = Store(redis_server.url, StoreConfig(store.config.namespace + "-2"))
    assert await other.item("i1") is None
    assert (await shelved(other)).known == {}
    await other.close()
