"""Health and metrics, for load balancers and Prometheus."""

import contextlib

import orjson
from fastapi import APIRouter, Request, Response

from api import telemetry
from api.engine import engine_of
from api.openapi import answers
from api.schemas import Health
from recsys.store import StoreUnavailable

router = APIRouter(tags=["health"])

METRICS_EXAMPLE = 'recsys_recommendations_total{tier="session"} 42.0\n'


@router.get("/health/live", responses={200: {"model": Health}})
async def live() -> Response:
    """The process runs."""
    return Response(b'{"status":"alive"}', media_type="application/json")


@router.get("/health/ready", responses=answers(Health, 200, 503))
async def ready(request: Request) -> Response:
    """Recommendations can be answered; without Redis they are, from the batch tier."""
    engine = engine_of(request)
    bundle = engine.active_bundle()
    try:
        await engine.store.ping()
        status, store = "ready", "up"
    except StoreUnavailable as error:
        status, store = "degraded", str(error)
    answer = {"status": status, "bundle": bundle.version, "store": store}
    return Response(orjson.dumps(answer), media_type="application/json")


@router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"example": METRICS_EXAMPLE}}}},
)
async def metrics(request: Request) -> Response:
    """Prometheus text, over all workers."""
    engine = engine_of(request)
    with contextlib.suppress(StoreUnavailable):  # they stay what they were when last seen
        telemetry.log_lags(await engine.store.lag(), engine.now())
        telemetry.qualities(await engine.store.quality(engine.versions()))
    body, content_type = telemetry.exposition()
    return Response(body, headers={"content-type": content_type})
