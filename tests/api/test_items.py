"""/v1/items: what a shop says counts from the next answer on, in every list."""

import asyncio
import contextlib
import dataclasses
import json
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis import Redis

from api.schemas import MAX_ITEMS
from api.settings import Settings
from recsys.bundle import Bundle
from recsys.catalog import Catalog
from recsys.embedded import EmbeddedRedis
from recsys.filters import Masks, boosts_of, filter_of
from recsys.items import change_of, merged
from recsys.recommend import Request, recommend, similar
from recsys.registry import Registry
from recsys.session import Session
from recsys.store import StoreConfig
from recsys.training import train
from tests.api.conftest import NOW, Served, running
from tests.synthetic import checkerboard, small_config

pytestmark = pytest.mark.anyio

Check = Callable[[httpx.Response, int], dict[str, Any]]
LINES = {"content-type": "application/x-ndjson"}
ITEMS = [
    {"item_id": f"i{k}", "price": k, "category": f"c{k % 3}", "properties": {"odd": bool(k % 2)}}
    for k in range(20)
]


async def ask(api: Served, **fields: Any) -> list[str]:
    response = await api.post("/v1/recommendations", fields)
    assert response.status_code == 200, response.text
    return [item["item_id"] for item in response.json()["items"]]


async def put(api: Served, item_id: str, **fields: Any) -> None:
    response = await api.client.put(f"/v1/items/{item_id}", json=fields)
    assert response.status_code == 200, response.text


@contextlib.asynccontextmanager
async def two_workers(settings: Settings) -> AsyncIterator[tuple[Served, Served]]:
    async with running(settings) as first, running(settings) as second:
        yield first, second


async def test_an_item_is_put_read_and_deleted(api: Served, problem: Check) -> None:
    """An upsert leaves what is not given; a deletion leaves nothing, whatever the id holds."""
    path = "/v1/items/a%2Fb%20ü"
    missing = problem(await api.client.get(path), 404)
    assert missing["detail"] == "item 'a/b ü' is not in the catalogue"
    await api.client.put(path, json={"title": "Shoe", "category": "x", "price": 5})
    answer = await api.client.put(path, json={"price": 4.5, "in_stock": False})
    expected = {
        "item_id": "a/b ü",
        "title": "Shoe",
        "category": ["x"],
        "price": 4.5,
        "in_stock": False,
        "visible": True,
    }
    assert answer.json() == (await api.client.get(path)).json() == expected
    for _ in range(2):
        assert (await api.client.delete(path)).status_code == 204
    problem(await api.client.get(path), 404)


@pytest.mark.parametrize(
    ("fields", "field", "message"),
    [
        ({"prise": 5}, "prise", "unknown field; did you mean 'price'?"),
        ({"price": -1}, "price", "must not be negative, got -1"),
        ({"price": "5"}, "price", "must be a number, got '5'"),
        ({"properties": {"a": {}}}, "properties.a", "or a list of such"),
        ({"title": "x" * 1_500_000}, "title", "must have 1 to 1000 characters, got 1500000"),
        ([1], "", "must be a JSON object, not an array"),
    ],
)
async def test_a_bad_item_is_named(
    api: Served, problem: Check, fields: Any, field: str, message: str
) -> None:
    """422 lists the field and what would do, and nothing is stored."""
    (error,) = problem(await api.client.put("/v1/items/i1", json=fields), 422)["errors"]
    assert error["field"] == field
    assert message in error["message"]
    problem(await api.client.get("/v1/items/i1"), 404)


async def test_an_item_of_ten_megabytes_is_refused(
    api: Served, settings: Settings, problem: Check
) -> None:
    """By its size; where bodies may be that large, by its field. Nothing is stored, all goes on."""
    item = {"properties": {"text": "x" * 10_000_000}}
    refused = problem(await api.client.put("/v1/items/i1", json=item), 413)
    assert "larger than 2097152 bytes" in refused["detail"]
    async with running(dataclasses.replace(settings, max_body=2**24)) as wide:
        refused = problem(await wide.client.put("/v1/items/i1", json=item), 422)
        assert "must have 1 to 16384 characters, got 10000000" in refused["detail"]
        problem(await wide.client.get("/v1/items/i1"), 404)
        listed = await wide.post("/v1/items", [{"item_id": "i1", **item}, {"item_id": "i2"}])
        assert listed.json()["accepted"] == 1
        assert listed.json()["rejected"][0]["field"] == "properties.text"


async def test_a_bad_id_is_named(api: Served, problem: Check) -> None:
    """1 to 256 characters, everywhere."""
    path = f"/v1/items/{'x' * 257}"
    for response in (
        await api.client.put(path, json={}),
        await api.client.get(path),
        await api.client.delete(path),
    ):
        assert "1 to 256 characters, got 257" in problem(response, 422)["detail"]


@pytest.mark.parametrize("lines", [False, True])
async def test_many_items_are_changed_at_once(api: Served, lines: bool) -> None:
    """Those that are bad are listed by their place; the others are accepted."""
    entries: list[Any] = [
        {"item_id": "i1", "price": 5},
        {"item_id": "i2", "prise": 5},
        {"price": 5},
        7,
        {"item_id": "i1", "in_stock": True},
    ]
    if lines:
        text = "\n".join(
            [*map(json.dumps, entries[:3]), '{"item_id": "i4"', json.dumps(entries[4])]
        )
        response = await api.client.post("/v1/items", content=f"{text}\n\n", headers=LINES)
        last = (3, "", "the body is not JSON: unexpected end of data: line 1 column 17 (char 16)")
    else:
        response = await api.post("/v1/items", entries)
        last = (3, "item", "must be a JSON object, got 7")
    answer = response.json()
    assert answer["accepted"] == 2
    flaws = [(flaw["index"], flaw["field"], flaw["message"]) for flaw in answer["rejected"]]
    assert flaws[0][:2] == (1, "prise")
    assert flaws[1:] == [(2, "item_id", "is required"), last]
    item = (await api.client.get("/v1/items/i1")).json()
    assert (item["price"], item["in_stock"]) == (5, True)


@pytest.mark.parametrize(
    ("body", "headers", "status", "message"),
    [
        ("{}", {"content-type": "application/json"}, 422, "must be a JSON list, or lines as"),
        ("[]", {"content-type": "application/json"}, 422, f"1 to {MAX_ITEMS} items, not 0"),
        ("\n", LINES, 422, f"1 to {MAX_ITEMS} items, not 0"),
        ("1\n" * (MAX_ITEMS + 1), LINES, 422, f"not {MAX_ITEMS + 1}"),
        ("[", {"content-type": "application/json"}, 400, "not JSON"),
        ("[]", {"content-type": "text/csv"}, 415, "application/json or application/x-ndjson"),
        ("x" * 2**22, LINES, 413, "larger than"),
    ],
)
async def test_a_bad_list_is_refused(
    api: Served, problem: Check, body: str, headers: dict[str, str], status: int, message: str
) -> None:
    """What is no list, or none of a usable length, is refused whole."""
    response = await api.client.post("/v1/items", content=body, headers=headers)
    assert message in problem(response, status)["detail"]


async def test_a_change_counts_in_the_next_answer_of_every_worker(settings: Settings) -> None:
    """Price, stock, visibility, deletion and return, from the first item on, in every list."""
    async with two_workers(settings) as (one, other):
        await one.click("i3", "i5", "i1", timestamp=NOW)
        wanted: dict[str, Any] = {"price": {"lt": 10}, "in_stock": True}
        steps: list[tuple[dict[str, Any] | None, bool, bool]] = [
            ({"price": 5, "in_stock": True}, True, True),
            ({"price": 15}, False, True),
            ({"price": 9}, True, True),
            ({"in_stock": False}, False, True),
            ({"in_stock": True, "visible": False}, False, False),
            ({"visible": True}, True, True),
            (None, False, False),
            ({"price": 1}, False, True),
            ({"in_stock": True}, True, True),
        ]
        for k, (change, holds, shown) in enumerate(steps):
            writer, reader = (one, other) if k % 2 else (other, one)
            if change is None:
                await writer.client.delete("/v1/items/i1")
            else:
                await put(writer, "i1", **change)
            text = json.dumps(wanted)
            for api in (reader, writer):
                lists = {
                    path: [item["item_id"] for item in (await api.client.get(path)).json()["items"]]
                    for path in (
                        f"/v1/trending?filter={text}",
                        f"/v1/items/i3/similar?filter={text}",
                    )
                }
                lists["recommend"] = await ask(api, session_id="s", filter=wanted)
                assert list(lists.values()) == [["i1"] if holds else []] * 3, (k, lists)
                assert ("i1" in await ask(api, session_id="s", n=20)) == shown
                trending = (await api.client.get("/v1/trending")).json()["items"]
                rising = {item["item_id"] for item in trending} & {"i1", "i3"}
                assert rising == ({"i1", "i3"} if shown else {"i3"})


async def test_it_is_the_same_function_as_in_the_library(api: Served, bundle: Bundle) -> None:
    """Lists under a filter and boosts are those of recommend() with the catalogue's masks."""
    assert (await api.post("/v1/items", ITEMS)).json()["accepted"] == 20
    await api.client.delete("/v1/items/i4")
    await api.click("i2", "i7")
    catalog = Catalog()
    for entry in ITEMS:
        change = {name: value for name, value in entry.items() if name != "item_id"}
        catalog.upsert(str(entry["item_id"]), merged(None, change_of(change)))
    catalog.delete("i4")
    masks = Masks(catalog)
    live = await api.app.state.engine.store.read("s", None)
    session = Session.from_events(live.events, live.user_events, session_id="s", version=2)
    condition = {"price": {"lt": 15}, "category": ["c0", "c1"]}
    boost = [
        {"filter": {"properties.odd": True}, "factor": 3},
        {"filter": {"price": 6}, "factor": 9},
    ]
    boosts = []
    for wanted in boosts_of(boost):
        mask = masks.of(bundle.items, wanted.filter)
        assert mask is not None
        boosts.append((mask, wanted.factor))
    allowed = masks.of(bundle.items, filter_of(condition))
    expected = recommend(
        bundle, session, Request(8, allowed=allowed, boosts=tuple(boosts), explain=True)
    )
    fields = {"n": 8, "filter": condition, "boost": boost, "explain": True}
    answer = (await api.post("/v1/recommendations", {"session_id": "s", **fields})).json()
    assert [item["item_id"] for item in answer["items"]] == expected.item_ids
    assert [item["score"] for item in answer["items"]] == expected.scores
    assert [item["features"] for item in answer["items"]] == expected.features
    assert "i4" not in expected.item_ids
    plain = recommend(bundle, session, Request(8, allowed=allowed))
    assert expected.item_ids != plain.item_ids
    query = {"n": 3, "filter": json.dumps(condition)}
    near = (await api.client.get("/v1/items/i2/similar", params=query)).json()["items"]
    assert [item["item_id"] for item in near] == similar(bundle, "i2", 3, allowed).item_ids


async def test_answers_say_what_is_known_of_their_items(api: Served) -> None:
    """As GET gives it, in every list; nothing of items that the shop said nothing of."""
    await put(api, "i2", title="Shoe", price=5)
    await api.click("i2", "i4", timestamp=NOW)
    known = {"title": "Shoe", "price": 5.0, "visible": True}
    response = await api.post("/v1/recommendations", {"session_id": "s"})
    for answer in (
        response,
        await api.client.get("/v1/items/i4/similar"),
        await api.client.get("/v1/trending"),
    ):
        described = {item["item_id"]: item.get("properties") for item in answer.json()["items"]}
        assert described.pop("i2") == known
        assert set(described.values()) == {None}


async def test_a_short_list_is_filled_from_the_catalogue(api: Served) -> None:
    """Where the bundle has too few items, those that it does not know follow, named last first;
    never what the placement or the request leaves out."""
    await api.click("i2", "new-3")
    for k in range(6):
        await put(api, f"new-{k}", price=k, in_stock=k != 4)
    await put(api, "i8", in_stock=True)
    wanted = {"in_stock": True}
    fields: dict[str, Any] = {"session_id": "s", "filter": wanted}
    response = await api.post("/v1/recommendations", {**fields, "explain": True})
    answer = response.json()["items"]
    assert [item["item_id"] for item in answer] == [
        *("i8", "new-5", "new-3", "new-2", "new-1", "new-0")
    ]
    assert [item["reason"] for item in answer[1:]] == ["catalogue"] * 5
    assert {item["score"] for item in answer} == {answer[0]["score"]}
    assert [item["rank"] for item in answer] == [1, 2, 3, 4, 5, 6]
    fresh = await ask(api, **fields, n=3, placement="discover", exclude=["new-5"])
    assert fresh == ["i8", "new-2", "new-1"]
    text = json.dumps(wanted)
    near = (await api.client.get("/v1/items/i2/similar", params={"filter": text, "n": 2})).json()
    assert [item["item_id"] for item in near["items"]] == ["i8", "new-5"]
    assert (await ask(api, session_id="s", n=30))[20:] == [f"new-{k}" for k in (5, 4, 3, 2, 1, 0)]


async def test_an_item_deleted_while_in_a_session_is_not_shown(api: Served) -> None:
    """The session goes on with what it tells of the visitor; the item does not come again."""
    await api.click("i2", "i4")
    before = (await api.post("/v1/recommendations", {"session_id": "s", "n": 20})).json()
    await api.client.delete("/v1/items/i2")
    after = (await api.post("/v1/recommendations", {"session_id": "s", "n": 20})).json()
    assert after["tier"] == before["tier"] == "session"
    assert [item for item in after["items"] if item["item_id"] == "i2"] == []
    others = [item["item_id"] for item in before["items"] if item["item_id"] != "i2"]
    assert [item["item_id"] for item in after["items"]] == others
    await api.click("i2", "i6")
    assert "i2" not in await ask(api, session_id="s", n=20)


async def test_a_bad_filter_of_a_query_is_named(api: Served, problem: Check) -> None:
    """What is no JSON, no object, or names what there is not."""
    for path in ("/v1/trending", "/v1/items/i1/similar"):
        for text, message in {
            "{": 'must be a JSON object as text, like {"price": {"lt": 50}}: unexpected end',
            "[]": "must be a JSON object, got []",
            '{"prise": 5}': "unknown field; did you mean 'price'?",
        }.items():
            response = await api.client.get(path, params={"filter": text})
            assert message in problem(response, 422)["errors"][0]["message"]


async def test_without_redis_the_catalogue_is_what_it_was(
    settings: Settings, tmp_path: Path, problem: Check
) -> None:
    """Filters go on, and answers say so; changes are refused. Once Redis is there again, a worker
    that started without it reads all, and what it has lost is gone everywhere."""
    with EmbeddedRedis.start(tmp_path) as server:
        store = StoreConfig(timeout=0.2)
        local = dataclasses.replace(settings, redis_url=server.url, store=store, poll_seconds=0.1)
        async with running(local) as api:
            await put(api, "i1", price=5)
            cheap = {"price": {"lt": 10}}
            assert await ask(api, filter=cheap) == ["i1"]
            os.kill(server.pid, signal.SIGSTOP)
            response = await api.post("/v1/recommendations", {"filter": cheap})
            assert response.headers["x-degraded"] == "store-unavailable"
            assert [item["item_id"] for item in response.json()["items"]] == ["i1"]
            near = await api.client.get(
                "/v1/items/i2/similar", params={"filter": json.dumps(cheap)}
            )
            assert near.headers["x-degraded"] == "store-unavailable"
            assert [item["item_id"] for item in near.json()["items"]] == ["i1"]
            refused = await api.client.put("/v1/items/i1", json={"price": 6})
            assert "what is said of an item twice" in problem(refused, 503)["detail"]
            problem(await api.client.delete("/v1/items/i1"), 503)
            problem(await api.client.get("/v1/items/i1"), 503)
            problem(await api.post("/v1/items", [{"item_id": "i1"}]), 503)
            async with running(local) as blind:
                unread = await blind.post("/v1/recommendations", {"filter": cheap})
                assert "no filter can be applied" in problem(unread, 503)["detail"]
                assert len(await ask(blind, n=5, boost={"filter": cheap, "factor": 2})) == 5
                os.kill(server.pid, signal.SIGCONT)
                deadline = time.monotonic() + 10
                while (await blind.post("/v1/recommendations", {"filter": cheap})).is_error:
                    assert time.monotonic() < deadline
                    await asyncio.sleep(0.1)
                assert await ask(blind, filter=cheap) == ["i1"]
            with Redis.from_url(server.url) as redis:
                redis.flushall()
            assert await ask(api, filter=cheap) == []


async def test_a_new_bundle_finds_the_catalogue_ready(settings: Settings, tmp_path: Path) -> None:
    """What was said of items holds for the next bundle from its first answer on."""
    fast = dataclasses.replace(settings, data_dir=tmp_path, poll_seconds=0.02)
    registry = Registry(tmp_path / "bundles")
    registry.publish(train(checkerboard(items=12), small_config()))
    async with running(fast) as api:
        await put(api, "i1", in_stock=True)
        await put(api, "i13", in_stock=True)
        await put(api, "i2", visible=False)
        second = registry.publish(train(checkerboard(items=14), small_config()))
        deadline = time.monotonic() + 5
        while True:
            response = await api.post("/v1/recommendations", {"filter": {"in_stock": True}})
            reasons = {item["item_id"]: item["reason"] for item in response.json()["items"]}
            assert set(reasons) == {"i1", "i13"}
            if response.json()["bundle"] == second:
                break
            assert time.monotonic() < deadline
            await asyncio.sleep(0.02)
        assert reasons["i13"] != "catalogue"
        assert "i2" not in await ask(api, n=20)
