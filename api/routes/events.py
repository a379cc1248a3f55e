"""POST /v1/events: validate each event, append the good ones in one round trip."""

import math
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import orjson
from fastapi import APIRouter, Request, Response
from pydantic import ValidationError

from api import telemetry
from api.body import read_object
from api.engine import engine_of
from api.errors import field_errors, invalid, store_failed
from api.openapi import answers, body_of
from api.schemas import MAX_EVENTS, EventIn, EventsIn, EventsOut
from recsys.config import nearest
from recsys.events import EVENT_WEIGHTS, ITEMLESS_TYPES, MAX_CLOCK_SKEW, RETURN_TYPE, Event
from recsys.store import Appended, StoreUnavailable
from recsys.timestamps import SMALLEST_CLOCK

router = APIRouter(tags=["events"])

FIELDS = list(EventIn.model_fields)
# RFC 3339's date-time; an offset left out gets a message of its own.
RFC_3339 = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})[Tt]([0-2][0-9]:[0-5][0-9]:)([0-5][0-9]|60)(\.[0-9]+)?"
    r"([Zz]|[+-][0-2][0-9]:[0-5][0-9])?"
)
YEAR_10000 = 253_402_300_800.0
MILLISECONDS_FROM = 1e11  # as Unix seconds this would be the year 5138, as milliseconds it is 1973


class _Rejected(Exception):  # noqa: N818
    def __init__(self, field: str, message: str) -> None:
        self.field = field
        self.message = message


@router.post(
    "/v1/events",
    status_code=202,
    responses=answers(EventsOut, 202, 400, 413, 415, 422, 503),
    openapi_extra=body_of(EventsIn, "application/json", "text/plain"),
)
async def record_events(request: Request) -> Response:
    """Record what visitors did. Acknowledged events count in every later recommendation."""
    engine = engine_of(request)
    payloads = _envelope(await read_object(request, engine.settings.max_body))
    bundle, mirror = engine.bundle, engine.mirror
    weights = bundle.config.events.weights if bundle else EVENT_WEIGHTS
    now = engine.now()
    events, rejected = [], []
    for index, payload in enumerate(payloads):
        try:
            events.append(_event(payload, weights, now))
        except _Rejected as flaw:
            rejected.append({"index": index, "field": flaw.field, "message": flaw.message})
    appended = Appended(0, 0, {})
    if events:
        try:
            appended = await engine.quality.append(events, bundle, mirror, now)
        except StoreUnavailable as error:
            raise store_failed(error) from error
    telemetry.events_recorded(appended, len(rejected))
    answer = {
        "accepted": appended.accepted,
        "duplicates": appended.duplicates,
        "rejected": rejected,
        "sessions": appended.versions,
    }
    return Response(orjson.dumps(answer), 202, media_type="application/json")


def unix_seconds(value: float | str | None, now: float) -> float:
    """A contract timestamp as Unix seconds. Raises ValueError with what is wrong."""
    if value is None:
        return now
    if isinstance(value, str):
        seconds = _parsed(value)
    else:
        seconds = value / 1000 if value >= MILLISECONDS_FROM else value
    if not math.isfinite(seconds) or seconds < SMALLEST_CLOCK:
        raise ValueError("must be a time after March 1973: a clock that was never set says less")
    if seconds >= YEAR_10000:
        raise ValueError("must be a time before the year 10000")
    if seconds > now + MAX_CLOCK_SKEW:
        raise ValueError(
            f"lies {_duration(seconds - now)} in the future; "
            f"at most {MAX_CLOCK_SKEW:.0f} seconds are allowed for clocks that differ"
        )
    return float(seconds)


def _parsed(text: str) -> float:
    parts = RFC_3339.fullmatch(text)
    try:
        if parts is None:
            raise ValueError
        day, minute, second, fraction, offset = parts.groups(default="")
        leap = second == "60"  # counted as the first second of the next minute
        moment = datetime.fromisoformat(
            f"{day}T{minute}{'59' if leap else second}{fraction}{offset.upper()}"
        )
    except ValueError:
        raise ValueError(
            "is neither RFC 3339 (2026-03-01T12:00:00Z) nor a number of Unix seconds"
        ) from None
    if moment.tzinfo is None:
        raise ValueError("has no offset; end it with Z for UTC, or an offset like +01:00")
    return moment.timestamp() + leap


def _envelope(data: dict[str, Any]) -> list[Any]:
    unknown = [name for name in data if name != "events"]
    if unknown:
        raise invalid(
            *((name, f"unknown field{nearest(name, ['events', *FIELDS])}") for name in unknown)
        )
    events = data.get("events")
    if not isinstance(events, list):
        raise invalid(("events", "must be an array of events"))
    if not 1 <= len(events) <= MAX_EVENTS:
        raise invalid(("events", f"must hold 1 to {MAX_EVENTS} events, not {len(events)}"))
    return events


def _event(payload: Any, weights: Mapping[str, float], now: float) -> Event:
    if not isinstance(payload, dict):
        raise _Rejected("", "an event must be a JSON object")
    try:
        given = EventIn.model_validate(payload)
    except ValidationError as error:
        raise _Rejected(*field_errors(error, FIELDS)[0]) from None
    kind = given.type
    if kind not in weights:
        raise _Rejected("type", f"unknown type {kind[:80]!r}{nearest(kind[:80], list(weights))}")
    if given.item_id is None and kind not in ITEMLESS_TYPES:
        raise _Rejected("item_id", f"an event of type {kind!r} needs an item_id")
    if given.value is not None and given.value < 0 and weights[kind] > 0:
        kind = RETURN_TYPE
    try:
        timestamp = unix_seconds(given.timestamp, now)
    except ValueError as error:
        raise _Rejected("timestamp", str(error)) from None
    return Event(
        type=kind,
        session_id=given.session_id,
        item_id=given.item_id,
        user_id=given.user_id,
        event_id=given.event_id,
        timestamp=timestamp,
        value=given.value,
        recommendation_id=given.recommendation_id,
        position=given.position,
        properties=given.properties,
    )


def _duration(seconds: float) -> str:
    for unit, length in (("years", 31_557_600), ("days", 86_400), ("hours", 3600)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} seconds"
