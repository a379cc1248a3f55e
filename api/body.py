"""Request bodies: read within a limit, decoded as JSON, with errors that name the position."""

import json
from collections.abc import Sequence
from typing import Any

import orjson
from fastapi import Request

from api.errors import Problem, invalid

# sendBeacon posts text/plain, which needs no preflight.
MEDIA_TYPES = ("application/json", "text/plain")
LINES = "application/x-ndjson"


async def read_object(request: Request, limit: int) -> dict[str, Any]:
    """The JSON object of a request. Raises Problem: 400, 413, 415 or 422."""
    _check_media_type(request, MEDIA_TYPES)
    data = _parse(await _read(request, limit))
    if not isinstance(data, dict):
        raise invalid(("", f"the body must be a JSON object, not {_kind(data)}"))
    return data


async def read_list(request: Request, limit: int) -> list[Any]:
    """The JSON list of a request, or what its lines hold, empty ones left out.

    In the place of a line that is no JSON stands its Problem. Raises Problem: 400, 413, 415 or 422.
    """
    if _check_media_type(request, ("application/json", LINES)) == LINES:
        lines = (await _read(request, limit)).split(b"\n")
        return [_parse_line(line) for line in lines if line.strip()]
    data = _parse(await _read(request, limit))
    if not isinstance(data, list):
        raise invalid(("", f"the body must be a JSON list, or lines as {LINES}, not {_kind(data)}"))
    return data


def _check_media_type(request: Request, known: Sequence[str]) -> str:
    """The media type of a request's body, without parameters. Raises Problem 415."""
    media_type = request.headers.get("content-type", "").split(";", 1)[0].strip().lower()
    if media_type not in ("", *known):
        raise Problem(
            415,
            "unsupported-media-type",
            f"the body must be {' or '.join(known)}, not {media_type}",
        )
    return media_type


async def _read(request: Request, limit: int) -> bytes:
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limit:
        raise _too_large(limit)
    # A chunked body declares no length, so what arrives is counted as well.
    chunks, size, more = [], 0, True
    while more:
        message = await request.receive()
        if message["type"] == "http.disconnect":  # nobody is there to read this; for the metrics
            raise Problem(400, "body-incomplete", "the connection ended before the body did")
        chunk, more = message.get("body", b""), message.get("more_body", False)
        size += len(chunk)
        if size > limit:
            raise _too_large(limit)
        chunks.append(chunk)
    return b"".join(chunks)


def _too_large(limit: int) -> Problem:
    # The rest of the body is not read, so the connection cannot be used again.
    return Problem(
        413,
        "body-too-large",
        f"the body is larger than {limit} bytes; send it in parts",
        headers={"Connection": "close"},
    )


def _parse(body: bytes) -> Any:
    if not body.strip():
        raise Problem(400, "invalid-json", "the body is empty; a JSON object is expected")
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        problem = _explain(body, error)
    try:
        # NaN and Infinity are no JSON, but Python writes them: let the field be named instead of
        # refusing the whole body.
        data = json.loads(body.decode("utf-8"))
        orjson.dumps(data)  # nothing that could not be stored
    except (ValueError, TypeError, RecursionError):
        raise problem from None
    return data


def _parse_line(line: bytes) -> Any:
    try:
        return _parse(line)
    except Problem as problem:
        return problem


def _explain(body: bytes, error: orjson.JSONDecodeError) -> Problem:
    try:
        body.decode("utf-8")
    except UnicodeDecodeError as wrong:
        detail = f"the body is not UTF-8: byte 0x{body[wrong.start]:02x} at position {wrong.start}"
    else:
        detail = f"the body is not JSON: {error}"
    return Problem(400, "invalid-json", detail)


def _kind(data: Any) -> str:
    names = {
        dict: "an object",
        list: "an array",
        str: "a string",
        bool: "a boolean",
        type(None): "null",
    }
    return names.get(type(data), "a number")
