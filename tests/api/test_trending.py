"""/v1/trending, and aggregates as the API's ranker is told of them."""

import pytest

from tests.api.conftest import NOW, Served
from tests.api.test_errors import Check

pytestmark = pytest.mark.anyio


async def test_what_rises_comes_first(api: Served) -> None:
    """Clicks of now against what is usual; items that no bundle knows are among them."""
    for item, count in (("i3", 4), ("new", 9), ("i5", 1)):
        for k in range(count):
            await api.click(item, session=f"s{k}", timestamp=NOW)
    await api.click(*["i5"] * 80, session="usual", timestamp=NOW - 5 * 86_400)
    items = (await api.client.get("/v1/trending", params={"n": 100})).json()["items"]
    order = [item["item_id"] for item in items]
    assert [order[0], order[1], order[-1]] == ["new", "i3", "i5"]
    assert [item["rank"] for item in items] == list(range(1, len(items) + 1))
    assert items[0]["score"] > items[1]["score"] > 0 > items[-1]["score"]
    # Those that training knew are there before anybody clicked.
    assert {f"i{k}" for k in range(20)} <= set(order)


async def test_trending_names_bad_input(api: Served, problem: Check) -> None:
    """A number of items that cannot be, and a field that is none."""
    response = await api.client.get("/v1/trending", params={"n": 0, "m": 1})
    fields = {error["field"] for error in problem(response, 422)["errors"]}
    assert fields == {"n", "m"}
