"""Errors as RFC 9457 problems: every one has a type, a title, a status and a detail that helps."""

import http
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import orjson
from fastapi import FastAPI, Request, Response
from pydantic import ValidationError
from starlette.exceptions import HTTPException

from api import telemetry
from recsys.config import nearest
from recsys.store import StoreRefusal, StoreUnavailable

logger = logging.getLogger("recsys.api")

MEDIA_TYPE = "application/problem+json"


class Problem(Exception):  # noqa: N818  # the RFC's word
    """An answer that is an error. kind: the last part of its ``type``; fields: what is wrong."""

    def __init__(
        self,
        status: int,
        kind: str,
        detail: str,
        *,
        fields: Sequence[tuple[str, str]] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.kind = kind
        self.detail = detail
        self.fields = fields
        self.headers = dict(headers or {})

    def response(self) -> Response:
        body = {
            "type": f"/problems/{self.kind}" if self.kind else "about:blank",
            "title": http.HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
            "errors": [{"field": field, "message": message} for field, message in self.fields],
        }
        return Response(orjson.dumps(body), self.status, self.headers, MEDIA_TYPE)


def invalid(*fields: tuple[str, str]) -> Problem:
    """422 that names each field and what is wrong with it."""
    detail = "; ".join(f"{field}: {message}" if field else message for field, message in fields)
    return Problem(422, "invalid-request", detail, fields=fields)


def overloaded() -> Problem:
    """503 for what cannot be answered in time."""
    return Problem(
        503,
        "overloaded",
        "more is asked of this server than it can answer in time: nothing of this request was "
        "done; try again in a second, events with the same event_id",
        headers={"Retry-After": "1"},
    )


AGAIN = "not confirmed; try again with the same event_id, so that nothing counts twice"


def store_unavailable(error: StoreUnavailable, remedy: str = AGAIN) -> Problem:
    """503. What Redis says is passed on; how it was tried to be reached is not the client's."""
    reason = str(error) if isinstance(error, StoreRefusal) else "Redis cannot be reached"
    return Problem(
        503,
        "store-unavailable",
        f"the store of live data is unavailable ({reason}): {remedy}",
        headers={"Retry-After": "1"},
    )


def store_failed(error: StoreUnavailable, remedy: str = AGAIN) -> Problem:
    """The same, counted in the metrics."""
    telemetry.store_errors.inc()
    return store_unavailable(error, remedy)


def field_errors(error: ValidationError, known: Sequence[str]) -> list[tuple[str, str]]:
    """What pydantic found, as (field, message); unknown fields get the nearest known name."""
    found = []
    entries = error.errors(include_url=False, include_context=False)
    # A misspelt field is also a missing one; the misspelling is the cause.
    for entry in sorted(entries, key=lambda entry: entry["type"] != "extra_forbidden"):
        field = ".".join(map(str, entry["loc"]))
        message = entry["msg"]
        if entry["type"] == "extra_forbidden":
            message = f"unknown field{nearest(field, list(known))}"
        elif entry["type"] == "missing":
            message = "is required"
        found.append((field, message[:1].lower() + message[1:]))
    return found


def install(app: FastAPI) -> None:
    """Answer every error of an app as a problem."""
    app.add_exception_handler(Problem, _problem)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, crash)


async def _problem(_request: Request, error: Any) -> Response:
    response: Response = error.response()
    return response


async def _http_error(request: Request, error: Any) -> Response:
    path = request.url.path
    details = {
        404: f"there is nothing at {path}",
        405: f"{request.method} is not offered at {path}",
    }
    detail = details.get(error.status_code, str(error.detail))
    return Problem(error.status_code, "", detail, headers=error.headers).response()


async def crash(request: Request, error: Exception) -> Response:
    """Answer what nobody thought of. Uvicorn logs the traceback; the answer must not show it."""
    logger.error("%s %s failed: %r", request.method, request.url.path, error)
    return Problem(500, "", "the server failed on this request; its log has the cause").response()
