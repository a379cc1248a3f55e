"""/v1/recommendations: follows the session, says how the list was made, degrades in the open."""

import asyncio
import dataclasses
import math
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from api.settings import Settings
from recsys.bundle import Bundle
from recsys.config import Config
from recsys.embedded import EmbeddedRedis
from recsys.recommend import Request, recommend, similar
from recsys.registry import Registry
from recsys.session import Session
from recsys.store import StoreConfig
from recsys.training import train
from tests.api.conftest import Served, running
from tests.synthetic import checkerboard, small_config

pytestmark = pytest.mark.anyio

Check = Callable[[httpx.Response, int], dict[str, Any]]


async def ask(api: Served, **fields: Any) -> dict[str, Any]:
    response = await api.post("/v1/recommendations", fields)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def items(answer: dict[str, Any]) -> list[str]:
    return [item["item_id"] for item in answer["items"]]


async def test_the_list_follows_the_session(api: Served, bundle: Bundle) -> None:
    """After clicks on even items the list is even; after odd ones, odd; each names its state."""
    await api.click("i2", "i4")
    even = await ask(api, session_id="s", n=4)
    assert all(int(item[1:]) % 2 == 0 for item in items(even))
    assert (even["tier"], even["session_version"], even["bundle"]) == ("session", 2, bundle.version)
    assert [item["rank"] for item in even["items"]] == [1, 2, 3, 4]
    await api.click("i3", "i5", session="t")
    assert all(int(item[1:]) % 2 == 1 for item in items(await ask(api, session_id="t", n=4)))


async def test_it_is_the_same_function_as_offline(api: Served, bundle: Bundle) -> None:
    """The answer is recommend() of the session's events, scores included."""
    await api.click("i2", "i7", user_id="u3")
    answer = await ask(api, session_id="s", n=10, exclude=["i9"], explain=True)
    live = await api.app.state.engine.store.read("s", None)
    session = Session.from_events(
        live.events, live.user_events, session_id="s", user_id="u3", version=2
    )
    expected = recommend(bundle, session, Request(n=10, exclude=("i9",), explain=True))
    assert items(answer) == expected.item_ids
    assert [item["score"] for item in answer["items"]] == expected.scores
    assert [item["features"] for item in answer["items"]] == expected.features


async def test_a_cart_takes_the_item_out(api: Served) -> None:
    """What is in the cart is not recommended by default; the placement `continue` keeps it."""
    await api.click("i2")
    top = items(await ask(api, session_id="s"))[0]
    cart = {"type": "cart", "session_id": "s", "item_id": top}
    await api.post("/v1/events", {"events": [cart]})
    assert top not in items(await ask(api, session_id="s"))
    assert top in items(await ask(api, session_id="s", placement="continue"))


async def test_a_stranger_gets_popular_items(api: Served) -> None:
    """With nothing known the tier is popular, and the header says why."""
    response = await api.post("/v1/recommendations", {})
    assert response.headers["x-degraded"] == "nothing-known"
    assert (response.json()["tier"], response.json()["session_version"]) == ("popular", 0)
    assert len(response.json()["items"]) == 20
    known = await api.post("/v1/recommendations", {"user_id": "u2"})
    assert known.headers["x-degraded"] == "no-session-events"
    assert known.json()["tier"] == "batch"


async def test_unknown_items_are_ignored(api: Served) -> None:
    """Clicks on items the bundle does not know are no error."""
    await api.click("new-1", "i2", "new-2")
    assert (await ask(api, session_id="s"))["tier"] == "session"


async def test_get_is_the_same(api: Served) -> None:
    """GET takes the scalar fields as query parameters and answers the same list."""
    await api.click("i2")
    query = {"session_id": "s", "n": "5", "explain": "true"}
    got = (await api.client.get("/v1/recommendations", params=query)).json()
    posted = await ask(api, session_id="s", n=5, explain=True)
    assert got.pop("recommendation_id") != posted.pop("recommendation_id")
    assert got == posted


async def test_a_list_may_be_diverse(api: Served) -> None:
    """diversity reaches the list, by POST and by GET alike; 0 is the list without it."""
    await api.click("i2", "i3")
    plain = items(await ask(api, session_id="s", n=6))
    assert items(await ask(api, session_id="s", n=6, diversity=0)) == plain
    diverse = items(await ask(api, session_id="s", n=6, diversity=0.8))
    assert diverse != plain
    query = {"session_id": "s", "n": "6", "diversity": "0.8"}
    assert items((await api.client.get("/v1/recommendations", params=query)).json()) == diverse


async def test_every_placement_keeps_its_word(api: Served) -> None:
    """Items of the session come again where the placement says so, refused ones never."""
    for kind, item in (("view", "i2"), ("cart", "i4"), ("purchase", "i6"), ("dislike", "i8")):
        event = {"type": kind, "session_id": "s", "item_id": item}
        await api.post("/v1/events", {"events": [event]})
    touched = {"i2", "i4", "i6", "i8"}
    shown = {
        placement: touched & set(items(await ask(api, session_id="s", placement=placement)))
        for placement in Config().placements
    }
    assert shown == {
        "default": {"i2"},
        "continue": {"i2", "i4", "i6"},
        "discover": set(),
        "basket": set(),
    }


async def test_the_description_names_every_placement(api: Served) -> None:
    """OpenAPI says what each placement that is there from the start is for."""
    document = (await api.client.get("/openapi.json")).json()
    fields = document["components"]["schemas"]["RecommendIn"]["properties"]
    for placement in Config().placements:
        assert f"`{placement}`: " in fields["placement"]["description"]
    assert "diversity" in {
        parameter["name"]
        for parameter in document["paths"]["/v1/recommendations"]["get"]["parameters"]
    }


async def test_timings_on_request(api: Served) -> None:
    """Microseconds per stage come when asked for, and only then."""
    assert "timings" not in await ask(api, session_id="s")
    timings = (await ask(api, session_id="s", timings=True))["timings"]
    assert {"store_read", "session", "rank", "total"} <= set(timings)
    assert sum(timings.values()) - timings["total"] <= timings["total"]


async def test_an_older_state_is_never_answered(api: Served, problem: Check) -> None:
    """min_session_version is met, or the answer is 409 with the version there is."""
    await api.click("i2")
    assert (await ask(api, session_id="s", min_session_version=1))["session_version"] == 1
    asked = {"session_id": "s", "min_session_version": 2}
    conflict = problem(await api.post("/v1/recommendations", asked), 409)
    assert "is at version 1, not yet 2" in conflict["detail"]
    alone = problem(await api.post("/v1/recommendations", {"min_session_version": 1}), 422)
    assert "needs a session_id" in alone["detail"]


@pytest.mark.parametrize(
    ("fields", "field", "message"),
    [
        ({"n": 0}, "n", "greater than or equal to 1"),
        ({"n": 10_000}, "n", "less than or equal to 1000"),
        ({"n": "20"}, "n", "valid integer"),
        ({"n": True}, "n", "valid integer"),
        ({"sesion_id": "s"}, "sesion_id", "unknown field; did you mean 'session_id'?"),
        ({"session_id": "x" * 10_000}, "session_id", "at most 256 characters"),
        ({"user_id": ""}, "user_id", "at least 1 character"),
        ({"item_id": 5}, "item_id", "valid string"),
        ({"exclude": "i1"}, "exclude", "valid list"),
        ({"placement": "defualt"}, "placement", "did you mean 'default'?"),
        ({"filter": "x"}, "filter", "must be a JSON object, got 'x'"),
        ({"filter": {"prise": 5}}, "filter.prise", "unknown field; did you mean 'price'?"),
        ({"filter": {"price": {"lt": "5"}}}, "filter.price.lt", "must be a number"),
        ({"boost": {"filter": {"price": 5}, "facto": 2}}, "boost.facto", "did you mean 'factor'?"),
        ({"boost": [{"filter": {"price": 5}, "factor": 11}]}, "boost.0.factor", "from 0.1 to 10"),
        ({"diversity": 1.5}, "diversity", "less than or equal to 1"),
        ({"diversity": -0.1}, "diversity", "greater than or equal to 0"),
        ({"diversity": "0.5"}, "diversity", "valid number"),
        ({"diversity": True}, "diversity", "valid number"),
    ],
)
async def test_a_bad_field_is_named(
    api: Served, problem: Check, fields: dict[str, Any], field: str, message: str
) -> None:
    """422 lists the field and what is wrong with it."""
    (error,) = problem(await api.post("/v1/recommendations", fields), 422)["errors"]
    assert error["field"] == field
    assert message in error["message"]


async def test_a_bad_query_is_named(api: Served, problem: Check) -> None:
    """GET refuses what POST refuses."""
    bad = {"n=0": "n", "n=x": "n", "sesion_id=s": "sesion_id", "placement=baskt": "placement"}
    diverse = ("diversity=2", "diversity=nan", "diversity=-inf", "diversity=some")
    bad |= {"filter=%7B%7D": "filter", "boost=%5B%5D": "boost", "exclude=i1": "exclude"}
    for query, field in {**bad, **dict.fromkeys(diverse, "diversity")}.items():
        response = await api.client.get(f"/v1/recommendations?{query}")
        assert problem(response, 422)["errors"][0]["field"] == field


async def test_similar_items(api: Served, bundle: Bundle, problem: Check) -> None:
    """Similar items are those of recommend.similar; an unknown item is 404."""
    answer = (await api.client.get("/v1/items/i4/similar", params={"n": 3})).json()
    assert items(answer) == similar(bundle, "i4", 3).item_ids
    missing = problem(await api.client.get("/v1/items/a%2Fb/similar"), 404)
    assert "item 'a/b' is not in bundle" in missing["detail"]
    problem(await api.client.get(f"/v1/items/{'x' * 10_000}/similar"), 404)
    problem(await api.client.get("/v1/items/i4/similar?n=0"), 422)


async def test_without_a_bundle_it_says_what_to_run(
    settings: Settings, tmp_path: Path, problem: Check
) -> None:
    """No bundle yet: readiness and recommendations are 503 with the command that helps."""
    async with running(dataclasses.replace(settings, data_dir=tmp_path)) as api:
        for response in (
            await api.client.get("/health/ready"),
            await api.post("/v1/recommendations", {}),
            await api.client.get("/v1/items/i1/similar"),
        ):
            detail = problem(response, 503)["detail"]
            assert f"recsys train LOG --data-dir {tmp_path}" in detail
        assert (await api.client.get("/health/live")).status_code == 200


async def test_a_new_bundle_is_picked_up(settings: Settings, tmp_path: Path) -> None:
    """A published bundle serves without a restart; a damaged one leaves the old one serving."""
    fast = dataclasses.replace(settings, data_dir=tmp_path, poll_seconds=0.02)
    registry = Registry(tmp_path / "bundles")
    first = registry.publish(train(checkerboard(items=12), small_config()))
    async with running(fast) as api:
        assert (await ask(api))["bundle"] == first
        second = registry.publish(train(checkerboard(items=14), small_config()))
        await _until(api, second)
        broken = registry.publish(train(checkerboard(items=16), small_config()))
        # Damaged as it lies on the disk: published again, it would be repaired.
        registry.activate(second)
        next((registry.path / broken).glob("*.npy")).write_bytes(b"damaged")
        registry.activate(broken)
        await asyncio.sleep(0.2)
        assert (await ask(api))["bundle"] == second
        assert (await api.client.get("/health/ready")).json()["bundle"] == second


async def _until(api: Served, version: str) -> None:
    deadline = time.monotonic() + 5
    while (await ask(api))["bundle"] != version:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


async def test_without_redis_the_batch_tier_answers(
    settings: Settings, tmp_path: Path, problem: Check
) -> None:
    """Redis gone: lists come at once and say so; events and exact versions are 503."""
    with EmbeddedRedis.start(tmp_path) as server:
        store = StoreConfig(timeout=0.2)
        async with running(dataclasses.replace(settings, redis_url=server.url, store=store)) as api:
            await api.click("i2", user_id="u2")
            os.kill(server.pid, signal.SIGSTOP)  # hangs, which is worse than refusing
            start = time.perf_counter()
            for k in range(20):
                response = await api.post(
                    "/v1/recommendations", {"session_id": "s", "user_id": f"u{k}"}
                )
                assert response.headers["x-degraded"] == "store-unavailable"
                assert response.json()["tier"] == "batch"
            assert time.perf_counter() - start < 1.0
            exact = {"session_id": "s", "min_session_version": 1}
            refused = await api.click("i4")
            assert refused.headers["retry-after"] == "1"
            problem(refused, 503)
            problem(await api.post("/v1/recommendations", exact), 503)
            problem(await api.client.get("/v1/sessions/s"), 503)
            problem(await api.client.delete("/v1/sessions/s"), 503)
            problem(await api.post("/v1/sessions/s/identify", {"user_id": "u"}), 503)
            assert (await api.client.get("/health/ready")).json()["status"] == "degraded"
            os.kill(server.pid, signal.SIGCONT)
            await asyncio.sleep(1.1)
            assert (await ask(api, session_id="s"))["tier"] == "session"


@pytest.mark.parametrize("kind", ["rating", "purchase", "view"])
@pytest.mark.parametrize("value", [1e-50, 1e-310, 5e-324, 0, 1e9])
async def test_scores_are_finite_whatever_the_value(api: Served, kind: str, value: float) -> None:
    """A value that vanishes, or is as large as may be, leaves every score a finite number."""
    event = {"type": kind, "session_id": "s", "user_id": "u", "item_id": "i1", "value": value}
    assert (await api.post("/v1/events", {"events": [event]})).json()["accepted"] == 1
    for visitor in ({"session_id": "s"}, {"user_id": "u"}):
        answer = await ask(api, **visitor, explain=True)
        assert answer["items"]
        for item in answer["items"]:
            numbers = [item["score"], *item["features"].values()]
            assert all(isinstance(n, int | float) and math.isfinite(n) for n in numbers), item
