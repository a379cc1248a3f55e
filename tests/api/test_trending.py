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
    answer = (await api.client.get("/v1/trending", params={"n": 3})).json()
    assert [item["item_id"] for item in answer["items"]] == ["new", "i3", "i5"]
    assert [item["rank"] for item in answer["items"]] == [1, 2, 3]
    scores = [item["score"] for item in answer["items"]]
    assert scores[0] > scores[1] > 0 > scores[2]


async def test_trending_names_bad_input(api: Served, problem: Check) -> None:
    """A number of items that cannot be, and a field that is none."""
    response = await api.client.get("/v1/trending", params={"n": 0, "m": 1})
    fields = {error["field"] for error in problem(response, 422)["errors"]}
    assert fields == {"n", "m"}
