"""/v1/trending: what rises now."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import orjson
from fastapi import APIRouter, Request, Response
from numpy.typing import NDArray

from api.catalogue import described, filter_of_query, shelf_for
from api.engine import engine_of
from api.errors import invalid, store_failed
from api.openapi import answers, query_of
from api.routes.items import list_wanted
from api.schemas import TrendingIn, TrendingOut
from recsys.aggregates import Aggregates, risen, risen_categories
from recsys.filters import Filter
from recsys.shelf import Shelf
from recsys.store import StoreUnavailable

router = APIRouter(tags=["items"])

UNDECLARED = (
    "no decayed_count is kept for categories; declare one in recsys.toml and train: "
    '[[aggregate]] name = "of_category", kind = "decayed_count", key = "category"'
)
LOOKED_AT = 2000  # items that are held against a filter at a time


@router.get(
    "/v1/trending",
    responses=answers(TrendingOut, 200, 422, 503),
    openapi_extra=query_of(TrendingIn),
)
async def trending(request: Request) -> Response:
    """What rises now: items or categories by how far recent events exceed what is usual."""
    engine = engine_of(request)
    wanted = list_wanted(request, TrendingIn)
    condition = filter_of_query(wanted.filter)
    if condition and wanted.by == "category":
        raise invalid(("filter", "is of items; leave it out with by=category"))
    await engine.keep_up()
    bundle, mirror = engine.active_bundle(), engine.mirror  # after it: another may serve by now
    if mirror is None:
        raise store_failed(StoreUnavailable("aggregates could not be read yet"))
    state = mirror.state
    if wanted.by == "category":
        answer = {"categories": _categories(state, wanted.n), "bundle": bundle.version}
        return Response(orjson.dumps(answer), media_type="application/json")
    shelf, degraded = await shelf_for(engine, condition)
    names = state.names["item"]
    scores = risen(state, np.arange(len(names), dtype=np.int32))
    order = np.lexsort((np.arange(len(scores)), -scores))
    items: list[dict[str, Any]] = [
        {
            "item_id": names[number],
            "score": float(scores[number]),
            "rank": rank,
            "reason": "trending",
        }
        for rank, number in enumerate(_shown(names, order, wanted.n, shelf, condition), 1)
    ]
    described(items, shelf)
    answer = {"items": items, "bundle": bundle.version}
    headers = {"X-Degraded": degraded} if degraded else None
    return Response(orjson.dumps(answer), 200, headers, "application/json")


def _categories(state: Aggregates, n: int) -> list[dict[str, Any]]:
    """The n that rise most. Raises Problem 422."""
    found = risen_categories(state)
    if found is None:
        raise invalid(("by", UNDECLARED))
    names, scores = found
    order = np.lexsort((np.arange(len(scores)), -scores))[:n]
    return [
        {"category": names[k], "score": float(scores[k]), "rank": rank}
        for rank, k in enumerate(order.tolist(), 1)
    ]


def _shown(
    names: Sequence[str],
    order: NDArray[np.intp],
    n: int,
    shelf: Shelf | None,
    condition: Filter | None,
) -> list[int]:
    """The first n in order that are visible and hold a filter."""
    if shelf is None or not (condition or shelf.catalog.hidden):
        shown: list[int] = order[:n].tolist()
        return shown
    shown = []
    for at in range(0, len(order), LOOKED_AT):
        part = order[at : at + LOOKED_AT].tolist()
        held = shelf.masks.held([names[number] for number in part], condition)
        shown += [number for number, holds in zip(part, held.tolist(), strict=True) if holds]
        if len(shown) >= n:
            break
    return shown[:n]
