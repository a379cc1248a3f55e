"""/v1/sessions: look at a live session, forget it, join it to a user."""

from typing import Annotated

import orjson
from fastapi import APIRouter, Path, Request, Response
from msgspec import structs
from pydantic import ValidationError

from api.body import read_object
from api.engine import engine_of
from api.errors import Problem, field_errors, invalid, store_failed
from api.openapi import answers, body_of, failures
from api.schemas import IdentifyIn, IdentifyOut, SessionOut
from recsys.events import MAX_ID_LENGTH
from recsys.store import StoreUnavailable

router = APIRouter(tags=["sessions"])

SessionId = Annotated[str, Path(examples=["s-7f3a"])]


@router.get("/v1/sessions/{session_id:path}", responses=answers(SessionOut, 200, 404, 422, 503))
async def get_session(request: Request, session_id: SessionId) -> Response:
    """What is held live of a session."""
    try:
        live = await engine_of(request).store.read(_checked(session_id), None)
    except StoreUnavailable as error:
        raise store_failed(error) from error
    if live.version == 0 and live.user_id is None:
        raise Problem(404, "unknown-session", f"session {session_id!r} is not known or has expired")
    answer = {
        "session_id": session_id,
        "user_id": live.user_id,
        "version": live.version,
        "events": [structs.asdict(event) for event in live.events],
    }
    return Response(orjson.dumps(answer), media_type="application/json")


@router.delete(
    "/v1/sessions/{session_id:path}",
    status_code=204,
    responses=failures(422, 503),
)
async def delete_session(request: Request, session_id: SessionId) -> Response:
    """Forget a session; its events leave its user's live history too."""
    try:
        await engine_of(request).store.forget(_checked(session_id))
    except StoreUnavailable as error:
        raise store_failed(error) from error
    return Response(status_code=204)


@router.post(
    "/v1/sessions/{session_id:path}/identify",
    responses=answers(IdentifyOut, 200, 400, 413, 415, 422, 503),
    openapi_extra=body_of(IdentifyIn),
)
async def identify_session(request: Request, session_id: SessionId) -> Response:
    """Join an anonymous session to a user; naming another user later moves on to that one."""
    engine = engine_of(request)
    data = await read_object(request, engine.settings.max_body)
    try:
        user_id = IdentifyIn.model_validate(data).user_id
    except ValidationError as error:
        raise invalid(*field_errors(error, list(IdentifyIn.model_fields))) from None
    try:
        joined, version = await engine.store.identify(_checked(session_id), user_id)
    except StoreUnavailable as error:
        raise store_failed(error) from error
    answer = {"session_id": session_id, "user_id": user_id, "version": version, "joined": joined}
    return Response(orjson.dumps(answer), media_type="application/json")


def _checked(session_id: str) -> str:
    if not 1 <= len(session_id) <= MAX_ID_LENGTH:
        raise invalid(("session_id", f"must have 1 to {MAX_ID_LENGTH} characters"))
    return session_id
