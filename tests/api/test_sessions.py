"""/v1/sessions: what is held, forgetting it, and joining it to a user."""

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from tests.api.conftest import Served

pytestmark = pytest.mark.anyio

Check = Callable[[httpx.Response, int], dict[str, Any]]


async def test_forget(api: Served, problem: Check) -> None:
    """A deleted session is unknown, and deleting it again is no error."""
    await api.click("i1", session="a/b")
    assert (await api.client.get("/v1/sessions/a%2Fb")).json()["version"] == 1
    assert (await api.client.delete("/v1/sessions/a%2Fb")).status_code == 204
    assert "not known" in problem(await api.client.get("/v1/sessions/a%2Fb"), 404)["detail"]
    assert (await api.client.delete("/v1/sessions/a%2Fb")).status_code == 204


async def test_terms_are_the_catalogues(api: Served) -> None:
    """What was known of an item when its event was accepted is shown; no client can say it, and it
    goes with the event, from the lists of a user too."""
    for price in (5, 6):
        await api.client.put("/v1/items/i1", json={"price": price, "category": "a"})
        await api.click("i1", user_id="u")
    refused = await api.click("i1", terms={"price": 1})
    assert refused.json()["rejected"][0]["field"] == "terms"
    events = (await api.client.get("/v1/sessions/s")).json()["events"]
    prices = [{"price": price, "category": ["a"]} for price in (5.0, 6.0)]
    assert [event["terms"] for event in events] == prices
    store = api.app.state.engine.store
    assert [event.terms for event in (await store.read("other", "u")).user_events] == prices
    await api.client.delete("/v1/sessions/s")
    assert (await store.read("other", "u")).user_events == []


async def test_forget_covers_every_user(api: Served) -> None:
    """After a session of two users was deleted, lists for neither of them reflect it."""
    for user in ("A1", "B1"):
        await api.post("/v1/sessions/s/identify", {"user_id": user})
        await api.click("i1", "i3")
    before = (await api.post("/v1/recommendations", {"user_id": "A1"})).json()
    assert before["tier"] != "popular"
    await api.client.delete("/v1/sessions/s")
    for user in ("A1", "B1"):
        after = (await api.post("/v1/recommendations", {"user_id": user})).json()
        assert after["tier"] == "popular"


async def test_identify(api: Served, problem: Check) -> None:
    """An anonymous session joins a user, whose other sessions then count."""
    await api.click("i1", "i3", session="old", user_id="u")
    await api.click("i5", session="s")
    answer = (await api.post("/v1/sessions/s/identify", {"user_id": "u"})).json()
    assert answer == {"session_id": "s", "user_id": "u", "version": 1, "joined": 1}
    live = await api.app.state.engine.store.read("s", None)
    assert [event.item_id for event in live.user_events] == ["i1", "i3", "i5"]
    problem(await api.post("/v1/sessions/s/identify", {"user": "u"}), 422)
    problem(await api.post("/v1/sessions/s/identify", {"user_id": ""}), 422)


async def test_long_ids_are_refused(api: Served, problem: Check) -> None:
    """A session id of 10,000 characters is a 422."""
    assert (
        "1 to 256" in problem(await api.client.get(f"/v1/sessions/{'x' * 10_000}"), 422)["detail"]
    )
