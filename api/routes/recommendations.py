"""/v1/recommendations: read the live session, wait for a turn, fold, recommend, answer."""

import contextlib
from time import perf_counter_ns
from typing import Any

import orjson
from fastapi import APIRouter, Request, Response
from pydantic import ValidationError

from api import telemetry
from api.body import read_object
from api.catalogue import (
    CATALOGUE_UNREAD,
    STORE_UNAVAILABLE,
    boosts_wanted,
    described,
    filter_wanted,
)
from api.engine import Engine, engine_of
from api.errors import Problem, field_errors, invalid, overloaded, store_unavailable
from api.openapi import answers, body_of, query_of
from api.schemas import RecommendIn, RecommendOut
from recsys import shelf as shelves
from recsys.events import new_id
from recsys.mirror import FOLLOWED, session_of, told
from recsys.recommend import Recommendation, UnknownPlacementError, filled, recommend
from recsys.recommend import Request as Wanted
from recsys.shelf import Shelf
from recsys.store import Live, StoreUnavailable

router = APIRouter(tags=["recommendations"])

FIELDS = list(RecommendIn.model_fields)
QUERY_LACKS = ("exclude", "filter", "boost")  # fields that are no scalars
# Why an answer is of a lower tier although nothing failed.
LACKING = {"batch": "no-session-events", "popular": "nothing-known"}


@router.post(
    "/v1/recommendations",
    responses=answers(RecommendOut, 200, 400, 409, 413, 415, 422, 503),
    openapi_extra=body_of(RecommendIn),
)
async def post_recommendations(request: Request) -> Response:
    """Items for a visitor, reflecting every event acknowledged before."""
    engine = engine_of(request)
    data = await read_object(request, engine.settings.max_body)
    try:
        wanted = RecommendIn.model_validate(data)
    except ValidationError as error:
        raise invalid(*field_errors(error, FIELDS)) from None
    return await _answer(engine, wanted)


@router.get(
    "/v1/recommendations",
    responses=answers(RecommendOut, 200, 409, 422, 503),
    openapi_extra=query_of(RecommendIn, *QUERY_LACKS),
)
async def get_recommendations(request: Request) -> Response:
    """The same with query parameters."""
    if left_out := [name for name in QUERY_LACKS if name in request.query_params]:
        raise invalid(*((name, "not in a query: POST takes it") for name in left_out))
    try:
        wanted = RecommendIn.model_validate_strings(dict(request.query_params))
    except ValidationError as error:
        raise invalid(*field_errors(error, FIELDS)) from None
    return await _answer(engine_of(request), wanted)


def listed(result: Recommendation, shelf: Shelf | None) -> list[dict[str, Any]]:
    """The items of an answer, with what the catalogue knows of them."""
    items: list[dict[str, Any]] = [
        {"item_id": item, "score": score, "rank": rank, "reason": reason}
        for rank, (item, score, reason) in enumerate(
            zip(result.item_ids, result.scores, result.reasons, strict=True), 1
        )
    ]
    for item, features in zip(items, result.features, strict=False):
        item["features"] = features
    described(items, shelf)
    return items


async def _answer(engine: Engine, wanted: RecommendIn) -> Response:
    condition, boosts = filter_wanted(wanted.filter), boosts_wanted(wanted.boost)
    bundle = engine.active_bundle()
    mirror = told(bundle.config, engine.mirror)
    start = perf_counter_ns()
    live, shelf, degraded = await _live(engine, wanted, mirror.place if mirror else "")
    if condition and shelf is None:
        raise store_unavailable(StoreUnavailable(), CATALOGUE_UNREAD)
    if mirror and live.changes:
        mirror.apply(live.changes)
        if len(live.changes.entries) == FOLLOWED:
            with contextlib.suppress(StoreUnavailable):  # a moment ago it was there
                await mirror.catch_up(engine.store)
    read = perf_counter_ns()
    await engine.turns.next()
    begun = perf_counter_ns()
    if engine.is_late((begun - read) / 1e9):
        telemetry.refused.inc()
        raise overloaded()
    session = session_of(live, bundle.config, mirror, wanted.session_id, wanted.user_id)
    folded = perf_counter_ns()
    asked = Wanted(
        n=wanted.n,
        placement=wanted.placement,
        item_id=wanted.item_id,
        exclude=tuple(wanted.exclude),
        diversity=wanted.diversity,
        explain=wanted.explain,
        allowed=shelf.allowed(bundle.items, condition) if shelf else None,
        boosts=shelf.boosts(bundle.items, boosts) if shelf else (),
        beyond=shelf.beyond(condition, boosts) if shelf else None,
        unseen=shelf.unseen(bundle) if shelf else None,
    )
    filtered = perf_counter_ns()
    try:
        result = recommend(bundle, session, asked)
    except UnknownPlacementError as error:
        raise invalid(("placement", str(error))) from error
    if shelf:
        result = filled(result, bundle, session, asked, shelf.masks, condition)
    degraded = degraded or LACKING.get(result.tier)
    answer: dict[str, Any] = {
        "recommendation_id": new_id(),
        "items": listed(result, shelf),
        "bundle": result.bundle,
        "session_version": session.version,
        "tier": result.tier,
    }
    if wanted.timings:
        answer["timings"] = {
            "store_read": (read - start) / 1000,
            "turn": (begun - read) / 1000,
            "session": (folded - begun) / 1000,
            "filter": (filtered - folded) / 1000,
            **result.timings,
            "total": (perf_counter_ns() - start) / 1000,
        }
    telemetry.recommended(result.tier, degraded)
    headers = {"X-Degraded": degraded} if degraded else None
    return Response(orjson.dumps(answer), 200, headers, "application/json")


async def _live(
    engine: Engine, wanted: RecommendIn, place: str
) -> tuple[Live, Shelf | None, str | None]:
    """The visitor's live data and the catalogue as they are now, and why they are not.

    place: in the stream of aggregates' changes; those since then come along, as those of items do.
    Without Redis there is no live data, and the catalogue is what it was when last seen. A list
    from an older state than asked for is never made up: that is 409, or 503 without Redis.
    """
    least = wanted.min_session_version or 0
    if least and wanted.session_id is None:
        raise invalid(("min_session_version", "needs a session_id"))
    shelf = engine.shelf
    at = shelf.place if shelf else ""
    try:
        live = await engine.store.read(
            wanted.session_id, wanted.user_id, place, FOLLOWED, at, shelves.FOLLOWED
        )
        if shelf is None or not shelf.apply(live.items):
            shelf = await engine.up_to_date_shelf()
    except StoreUnavailable as error:
        telemetry.store_errors.inc()
        if least:
            raise store_unavailable(error) from error
        return Live(), shelf, STORE_UNAVAILABLE
    if live.version < least:
        detail = f"session {wanted.session_id!r} is at version {live.version}, not yet {least}"
        raise Problem(409, "session-version", detail, fields=[("min_session_version", detail)])
    return live, shelf, None
