"""/v1/items: what a shop says of its items, and similar items."""

from collections.abc import Sequence
from typing import Annotated, Any, TypeVar

import orjson
from fastapi import APIRouter, Path, Request, Response
from pydantic import BaseModel, ValidationError

from api.body import read_list, read_object
from api.catalogue import filter_of_query, shelf_for
from api.engine import engine_of
from api.errors import Problem, field_errors, invalid, store_failed
from api.openapi import answers, body_of, failures, query_of
from api.routes.recommendations import listed
from api.schemas import MAX_ITEMS, ItemIn, ItemOut, ItemsIn, ItemsOut, SimilarIn, SimilarOut
from recsys.events import MAX_ID_LENGTH
from recsys.items import Change, FieldError, Item, change_of, fields_of, listed_change_of, text
from recsys.mirror import told
from recsys.recommend import filled, similar, similar_to
from recsys.session import Session
from recsys.store import Store, StoreUnavailable

router = APIRouter(tags=["items"])

Query = TypeVar("Query", bound=BaseModel)
ItemId = Annotated[str, Path(examples=["1082185"])]
TOGETHER = 100  # items that change in one round trip; others are served in between
AGAIN = "not confirmed; try again: what is said of an item twice changes nothing more"
LINES = """{"item_id": "1082185", "price": 69.5}
{"item_id": "995242", "visible": false}
"""


def list_wanted(request: Request, model: type[Query]) -> Query:
    """What a query asks of a list that is nobody's. Raises Problem 422."""
    try:
        return model.model_validate_strings(dict(request.query_params))
    except ValidationError as error:
        raise invalid(*field_errors(error, list(model.model_fields))) from None


@router.post(
    "/v1/items",
    responses=answers(ItemsOut, 200, 400, 413, 415, 422, 503),
    openapi_extra=body_of(ItemsIn, lines=LINES),
)
async def change_items(request: Request) -> Response:
    """Change many items, as a list or line by line; those that are not known become so."""
    engine = engine_of(request)
    entries = await read_list(request, engine.settings.max_body)
    if not 1 <= len(entries) <= MAX_ITEMS:
        raise invalid(("", f"the body must hold 1 to {MAX_ITEMS} items, not {len(entries)}"))
    accepted, rejected = 0, list[dict[str, Any]]()
    for start in range(0, len(entries), TOGETHER):
        outcomes = await _changed(engine.store, entries[start : start + TOGETHER])
        for index, outcome in enumerate(outcomes, start):
            if isinstance(outcome, Item):
                accepted += 1
            else:
                flaw = {"field": outcome.field, "message": outcome.message}
                rejected.append({"index": index, **flaw})
    answer = {"accepted": accepted, "rejected": rejected}
    return Response(orjson.dumps(answer), media_type="application/json")


# `:path`, because an item id may hold a slash.
@router.get(
    "/v1/items/{item_id:path}/similar",
    responses=answers(SimilarOut, 200, 404, 422, 503),
    openapi_extra=query_of(SimilarIn),
)
async def similar_items(request: Request, item_id: ItemId) -> Response:
    """Items near one item."""
    engine = engine_of(request)
    bundle = engine.active_bundle()
    wanted = list_wanted(request, SimilarIn)
    condition = filter_of_query(wanted.filter)
    shelf, degraded = await shelf_for(engine, condition)
    allowed = shelf.allowed(bundle.items, condition) if shelf else None
    beyond = shelf.beyond(condition) if shelf else None
    unseen = shelf.unseen(bundle) if shelf else None
    mirror = told(bundle.config, engine.mirror)
    state = mirror.state if mirror else None
    try:
        result = similar(bundle, item_id, wanted.n, allowed, beyond, unseen, state)
    except KeyError as error:
        raise _unknown(item_id, f"in bundle {bundle.version}, nor in what came since") from error
    if shelf:
        asked = similar_to(item_id, wanted.n)
        result = filled(result, bundle, Session(), asked, shelf.masks, condition)
    answer = {"items": listed(result, shelf), "bundle": result.bundle}
    headers = {"X-Degraded": degraded} if degraded else None
    return Response(orjson.dumps(answer), 200, headers, "application/json")


@router.put(
    "/v1/items/{item_id:path}",
    responses=answers(ItemOut, 200, 400, 413, 415, 422, 503),
    openapi_extra=body_of(ItemIn),
)
async def put_item(request: Request, item_id: ItemId) -> Response:
    """Change an item: fields not given stay, and one that is not known becomes so."""
    engine = engine_of(request)
    data = await read_object(request, engine.settings.max_body)
    try:
        change = change_of(data)
        (outcome,) = await engine.store.put_items([(_checked(item_id), change)])
        if isinstance(outcome, FieldError):
            raise outcome
    except FieldError as error:
        raise invalid((error.field, error.message)) from error
    except StoreUnavailable as error:
        raise store_failed(error, AGAIN) from error
    return _shown(item_id, outcome)


@router.get("/v1/items/{item_id:path}", responses=answers(ItemOut, 200, 404, 422, 503))
async def get_item(request: Request, item_id: ItemId) -> Response:
    """What is known of an item."""
    try:
        item = await engine_of(request).store.item(_checked(item_id))
    except StoreUnavailable as error:
        raise store_failed(error, AGAIN) from error
    if item is None:
        raise _unknown(item_id, "in the catalogue")
    return _shown(item_id, item)


@router.delete("/v1/items/{item_id:path}", status_code=204, responses=failures(422, 503))
async def delete_item(request: Request, item_id: ItemId) -> Response:
    """Forget what is known of an item: it stands in no list until something is said of it again.

    So does one that only the bundle knows.
    """
    try:
        await engine_of(request).store.delete_item(_checked(item_id))
    except StoreUnavailable as error:
        raise store_failed(error, AGAIN) from error
    return Response(status_code=204)


async def _changed(store: Store, entries: Sequence[Any]) -> list[Item | FieldError]:
    """Of each entry of a list what its item is now, or what is wrong with it."""
    outcomes: list[Item | FieldError | None] = []
    changes: list[tuple[str, Change]] = []
    for entry in entries:
        try:
            if isinstance(entry, Problem):  # a line that is no JSON
                raise FieldError("", entry.detail)
            changes.append(listed_change_of(entry))
            outcomes.append(None)
        except FieldError as error:
            outcomes.append(error)
    try:
        made = iter(await store.put_items(changes))
    except StoreUnavailable as error:
        raise store_failed(error, AGAIN) from error
    return [next(made) if outcome is None else outcome for outcome in outcomes]


def _shown(item_id: str, item: Item) -> Response:
    answer = {"item_id": item_id, **fields_of(item)}
    return Response(orjson.dumps(answer), media_type="application/json")


def _checked(item_id: str) -> str:
    try:
        return text("item_id", item_id, MAX_ID_LENGTH)
    except FieldError as error:
        raise invalid((error.field, error.message)) from error


def _unknown(item_id: str, where: str) -> Problem:
    shown = item_id if len(item_id) <= 80 else item_id[:80] + "…"
    return Problem(404, "unknown-item", f"item {shown!r} is not {where}")
