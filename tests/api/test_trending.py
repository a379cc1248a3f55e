"""/v1/trending, and aggregates as the API's ranker is told of them."""

import dataclasses
from pathlib import Path

import pytest

from api.settings import Settings
from recsys.registry import Registry
from recsys.training import train
from tests.api.conftest import NOW, Served, running
from tests.api.test_errors import Check
from tests.synthetic import checkerboard, small_config
from tests.test_newcomers import coming
from tests.test_training import RANKED
from tests.test_unseen import log_of

pytestmark = pytest.mark.anyio


async def test_what_rises_comes_first(api: Served) -> None:
    """Clicks of now against what is usual; items that no bundle knows are among them."""
    for item, count in (("i3", 4), ("new", 9), ("i5", 1)):
        for k in range(count):
            await api.click(item, session=f"s{k}", timestamp=NOW)
    for k in range(80):
        await api.click("i5", session=f"usual{k}", timestamp=NOW - 5 * 86_400)
    items = (await api.client.get("/v1/trending", params={"n": 100})).json()["items"]
    order = [item["item_id"] for item in items]
    assert [order[0], order[1], order[-1]] == ["new", "i3", "i5"]
    assert [item["rank"] for item in items] == list(range(1, len(items) + 1))
    assert items[0]["score"] > items[1]["score"] > 0 > items[-1]["score"]
    # Those that training knew are there before anybody clicked.
    assert {f"i{k}" for k in range(20)} <= set(order)


async def test_categories_that_rise(settings: Settings, tmp_path: Path, problem: Check) -> None:
    """By what is declared for them: two half-lives against what is usual, one by its count."""
    tables = [
        {"name": "slow", "kind": "decayed_count", "key": "category", "half_life": "7d"},
        {"name": "fast", "kind": "decayed_count", "key": "category", "half_life": "1h"},
    ]
    by = {"by": "category"}

    async def order(count: int) -> list[str]:
        config = small_config(aggregate=tables[:count])
        folder = tmp_path / str(count)
        Registry(folder / "bundles").publish(train(checkerboard(), config))
        space = dataclasses.replace(settings.store, namespace=f"{settings.store.namespace}-{count}")
        asked = dataclasses.replace(settings, data_dir=folder, store=space)
        async with running(asked) as api:
            if not count:
                answer = await api.client.get("/v1/trending", params=by)
                assert "recsys.toml" in str(problem(answer, 422)["detail"])
                return []
            for item, category in (("i1", ["hats"]), ("i2", ["shoes", "boots"])):
                await api.client.put(f"/v1/items/{item}", json={"category": category})
            await api.click(*["i1"] * 80, session="usual", timestamp=NOW - 86_400)
            await api.click("i1", "i2", "i2", "unnamed", timestamp=NOW)
            refused = await api.client.get("/v1/trending", params={**by, "filter": '{"price": 1}'})
            assert "by=category" in str(problem(refused, 422)["detail"])
            found = (await api.client.get("/v1/trending", params={**by, "n": 2})).json()
        assert [one["rank"] for one in found["categories"]] == [1, 2]
        assert "items" not in found
        return [one["category"] for one in found["categories"]]

    assert await order(0) == []
    assert await order(1) == ["hats", "shoes"]
    assert await order(2) == ["shoes", "boots"]


async def test_trending_names_bad_input(api: Served, problem: Check) -> None:
    """A number of items that cannot be, and a field that is none."""
    response = await api.client.get("/v1/trending", params={"n": 0, "m": 1})
    fields = {error["field"] for error in problem(response, 422)["errors"]}
    assert fields == {"n", "m"}


async def test_a_new_item_is_recommended_in_the_very_next_answer(
    settings: Settings, tmp_path: Path
) -> None:
    """Somebody went on to an item that was not there when the bundle was trained: by any worker, to
    whoever is where they were, unless the catalogue hides it."""
    Registry(tmp_path / "bundles").publish(train(coming(), small_config(**RANKED)))
    settings = dataclasses.replace(settings, data_dir=tmp_path)

    async def reasons(api: Served) -> dict[str, str]:
        answer = await api.post("/v1/recommendations", {"session_id": "me"})
        return {item["item_id"]: item["reason"] for item in answer.json()["items"]}

    async with running(settings) as one, running(settings) as other:
        await other.click("i5", session="me")
        assert "new" not in await reasons(other)
        await one.click("i5", session="them")
        await one.click("new", session="them", timestamp=NOW + 1)
        assert (await reasons(other))["new"] == "newcomers"
        await one.click("i6", session="them", timestamp=NOW + 2)
        assert (await one.client.get("/v1/items/unheard/similar")).status_code == 404
        await one.app.state.engine.keep_up()  # as it does by itself, now and then
        near = (await one.client.get("/v1/items/new/similar")).json()["items"]
        assert near[0]["item_id"] == "i6"
        assert (await one.client.put("/v1/items/new", json={"visible": False})).status_code < 300
        assert "new" not in await reasons(other)


async def test_an_item_is_recommended_as_soon_as_the_shop_names_it(
    settings: Settings, tmp_path: Path
) -> None:
    """Nobody has touched it; by any worker, to whoever looks at its like, and it has items like
    it."""
    Registry(tmp_path / "bundles").publish(train(log_of(), small_config(**RANKED)))
    settings = dataclasses.replace(settings, data_dir=tmp_path)

    async def reasons(api: Served) -> dict[str, str]:
        asked = {"session_id": "me", "n": 60}
        answer = await api.post("/v1/recommendations", asked)
        return {item["item_id"]: item["reason"] for item in answer.json()["items"]}

    async with running(settings) as one, running(settings) as other:
        await other.click("i21", "i22", session="me")
        # Without a catalogue, what the bundle was told of.
        assert (await reasons(other))["fresh5"] == "unseen"
        item = {"category": "k5"}
        assert (await one.client.put("/v1/items/novel", json=item)).status_code < 300
        found = await reasons(other)
        assert found["novel"] == "unseen"
        assert "fresh5" not in found
        near = (await other.client.get("/v1/items/novel/similar")).json()["items"]
        assert len(near) == 20
        assert (await one.client.delete("/v1/items/novel")).status_code < 300
        assert "novel" not in await reasons(other)
