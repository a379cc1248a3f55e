"""Catalogue: how requests state filters, and what answers say of items."""

from collections.abc import Iterable
from typing import Any

import orjson

from api import telemetry
from api.engine import Engine
from api.errors import invalid, store_unavailable
from recsys.filters import Boost, Filter, boosts_of, filter_of
from recsys.items import FieldError
from recsys.shelf import Shelf
from recsys.store import StoreUnavailable

STORE_UNAVAILABLE = "store-unavailable"  # why an answer is of before, or of a lower tier
CATALOGUE_UNREAD = "the catalogue could not be read yet, so no filter can be applied; try again"


def filter_wanted(data: object) -> Filter | None:
    """The filter of a body, ``None`` without. Raises Problem 422."""
    try:
        return None if data is None else filter_of(data)
    except FieldError as error:
        raise invalid((error.field, error.message)) from error


def filter_of_query(text: str | None) -> Filter | None:
    """The filter of a query: JSON text. Raises Problem 422."""
    if text is None:
        return None
    try:
        return filter_wanted(orjson.loads(text))
    except orjson.JSONDecodeError as error:
        example = '{"price": {"lt": 50}}'
        raise invalid(
            ("filter", f"must be a JSON object as text, like {example}: {error}")
        ) from error


def boosts_wanted(data: object) -> tuple[Boost, ...]:
    """The boosts of a body. Raises Problem 422."""
    try:
        return () if data is None else boosts_of(data)
    except FieldError as error:
        raise invalid((error.field, error.message)) from error


async def shelf_for(engine: Engine, condition: Filter | None) -> tuple[Shelf | None, str | None]:
    """The catalogue as it is now; or as it was when last seen, and why, when Redis does not answer.

    Raises Problem 503 where it never was seen and there is a filter.
    """
    try:
        return await engine.up_to_date_shelf(), None
    except StoreUnavailable as error:
        telemetry.store_errors.inc()
        if condition and engine.shelf is None:
            raise store_unavailable(error, CATALOGUE_UNREAD) from error
        return engine.shelf, STORE_UNAVAILABLE


def described(items: Iterable[dict[str, Any]], shelf: Shelf | None) -> None:
    """Add to items of an answer what the catalogue knows of them."""
    known = shelf.known if shelf else {}
    for item in items:
        if payload := known.get(item["item_id"]):
            item["properties"] = orjson.Fragment(payload)
