"""/v1/items: similar items."""

from typing import Annotated

import orjson
from fastapi import APIRouter, Path, Request, Response
from pydantic import ValidationError

from api.engine import engine_of
from api.errors import Problem, field_errors, invalid
from api.openapi import answers, query_of
from api.routes.recommendations import listed
from api.schemas import SimilarIn, SimilarOut
from recsys.recommend import similar

router = APIRouter(tags=["items"])


def list_wanted(request: Request) -> SimilarIn:
    """What a query asks of a list of items that is nobody's. Raises Problem 422."""
    try:
        return SimilarIn.model_validate_strings(dict(request.query_params))
    except ValidationError as error:
        raise invalid(*field_errors(error, list(SimilarIn.model_fields))) from None


# `:path`, because an item id may hold a slash.
@router.get(
    "/v1/items/{item_id:path}/similar",
    responses=answers(SimilarOut, 200, 404, 422, 503),
    openapi_extra=query_of(SimilarIn),
)
async def similar_items(
    request: Request, item_id: Annotated[str, Path(examples=["1082185"])]
) -> Response:
    """Items near one item."""
    bundle = engine_of(request).active_bundle()
    wanted = list_wanted(request)
    try:
        result = similar(bundle, item_id, wanted.n)
    except KeyError as error:
        shown = item_id if len(item_id) <= 80 else item_id[:80] + "…"
        detail = f"item {shown!r} is not in bundle {bundle.version}"
        raise Problem(404, "unknown-item", detail) from error
    answer = {"items": listed(result), "bundle": result.bundle}
    return Response(orjson.dumps(answer), media_type="application/json")
