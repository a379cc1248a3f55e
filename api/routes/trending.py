"""/v1/trending: what rises now."""

import numpy as np
import orjson
from fastapi import APIRouter, Request, Response

from api import telemetry
from api.engine import engine_of
from api.errors import store_unavailable
from api.openapi import answers, query_of
from api.routes.items import list_wanted
from api.schemas import SimilarIn, SimilarOut
from recsys.aggregates import risen
from recsys.store import StoreUnavailable

router = APIRouter(tags=["items"])


@router.get(
    "/v1/trending",
    responses=answers(SimilarOut, 200, 422, 503),
    openapi_extra=query_of(SimilarIn),
)
async def trending(request: Request) -> Response:
    """What rises now: items by how far recent events exceed what is usual for them."""
    engine = engine_of(request)
    wanted = list_wanted(request)
    await engine.keep_up()
    bundle, mirror = engine.active_bundle(), engine.mirror  # after it: another may serve by now
    if mirror is None:
        telemetry.store_errors.inc()
        raise store_unavailable(StoreUnavailable("aggregates could not be read yet"))
    state = mirror.state
    scores = risen(state, np.arange(len(state.names["item"]), dtype=np.int32))
    best = np.lexsort((np.arange(len(scores)), -scores))[: wanted.n].tolist()
    items = [
        {
            "item_id": state.names["item"][number],
            "score": float(scores[number]),
            "rank": rank,
            "reason": "trending",
        }
        for rank, number in enumerate(best, 1)
    ]
    answer = {"items": items, "bundle": bundle.version}
    return Response(orjson.dumps(answer), media_type="application/json")
