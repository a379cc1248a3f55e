"""The shapes of requests and answers: validation, and what OpenAPI shows."""

from typing import Annotated, Any, Literal

import orjson
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    RootModel,
    StringConstraints,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WithJsonSchema,
    WrapValidator,
)
from pydantic_core import PydanticCustomError

from recsys.events import MAX_ABS_VALUE, MAX_ID_LENGTH
from recsys.items import MAX_PROPERTIES, MAX_PROPERTY_BYTES, MAX_TITLE, MAX_URL
from recsys.recommend import MAX_N

MAX_EVENTS = 1000  # in one request
MAX_EXCLUDED = 10_000  # items named in one request
MAX_VERSION = 2**53  # beyond it JSON numbers are not exact
MAX_ITEMS = 10_000  # changed in one request

STRICT = ConfigDict(extra="forbid", strict=True)
PLACEMENTS = (
    "the kind of list. `default`: what the visitor may want now, without what is in the cart or "
    "bought. `continue`: where the visitor left off, everything may come again. `discover`: what "
    "is new to the visitor, without all of this session and all that a known user touched before. "
    "`basket`: what goes with the session or with `item_id`, without all of this session. The "
    "bundle's configuration may hold others and change these; an unknown name is refused with the "
    "list of those there are"
)
FILTER = (
    "items must hold all conditions on `category`, `price`, `in_stock`, `title`, `item_id` or "
    "`properties.NAME`: a value, a list of values, or operators `eq ne lt le gt ge in nin`. Of an "
    "item of which a field is not known, only `ne` and `nin` hold"
)
BOOST = (
    "items that hold a `filter` count for more, `factor` above 1, or for less; from 0.1 to 10, 2 "
    "lifts by 0.7 standard deviations of the scores"
)
OBJECT = WithJsonSchema({"type": "object"})


ITEM: dict[str, Any] = {
    "title": "Trail shoe",
    "category": ["shoes", "outdoor"],
    "price": 79.5,
    "in_stock": True,
    "properties": {"brand": "x"},
}


def _example(**fields: Any) -> ConfigDict:
    return ConfigDict(json_schema_extra={"example": fields})


def _storable(value: dict[str, Any]) -> dict[str, Any]:
    try:
        orjson.dumps(value)
    except TypeError as error:
        raise PydanticCustomError("too_deep", "nested too deeply") from error
    return value


def _moment(value: Any, check: ValidatorFunctionWrapHandler) -> Any:
    try:
        return check(value)
    except ValidationError:  # one error for each member of the union
        raise PydanticCustomError(
            "timestamp", "must be RFC 3339 text, or a number of Unix seconds or milliseconds"
        ) from None


Id = Annotated[str, StringConstraints(min_length=1, max_length=MAX_ID_LENGTH)]
Number = Annotated[float, Field(ge=-MAX_ABS_VALUE, le=MAX_ABS_VALUE, allow_inf_nan=False)]


class EventIn(BaseModel):
    """One thing a visitor did."""

    model_config = STRICT

    type: str = Field(description="a configured event type", examples=["cart"])
    session_id: Id = Field(examples=["s-7f3a"])
    item_id: Id | None = Field(None, description="required but for `search`", examples=["1082185"])
    user_id: Id | None = Field(None, description="identifies the session as this user's")
    event_id: Id | None = Field(None, description="the same id counts once", examples=["e-1"])
    timestamp: Annotated[float | str | None, WrapValidator(_moment)] = Field(
        None,
        description="RFC 3339, or Unix seconds or milliseconds; default now",
        examples=["2026-03-01T12:00:00Z"],
    )
    value: Number | None = Field(None, description="price, rating; negative is a return")
    recommendation_id: Id | None = Field(None, description="the list the item was taken from")
    position: int | None = Field(None, ge=0, le=10**6, description="rank in that list")
    properties: Annotated[dict[str, Any], AfterValidator(_storable)] = Field(default_factory=dict)


class EventsIn(BaseModel):
    """A batch of events; one bad event does not spoil the others."""

    model_config = STRICT | _example(
        events=[
            {
                "type": "cart",
                "session_id": "s-7f3a",
                "item_id": "1082185",
                "event_id": "e-1",
                "timestamp": "2026-03-01T12:00:00Z",
            },
            {"type": "search", "session_id": "s-7f3a", "properties": {"query": "rye bread"}},
        ]
    )

    events: list[EventIn] = Field(min_length=1, max_length=MAX_EVENTS)


class Rejected(BaseModel):
    index: int
    field: str
    message: str


class EventsOut(BaseModel):
    accepted: int
    duplicates: int
    rejected: list[Rejected]
    sessions: dict[str, int] = Field(description="version of each session named")

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "accepted": 1,
                "duplicates": 0,
                "rejected": [
                    {"index": 1, "field": "type", "message": "unknown type 'crat'; ..."},
                ],
                "sessions": {"s-7f3a": 3},
            }
        }
    )


class RecommendIn(BaseModel):
    """What is asked for; everything is optional."""

    model_config = STRICT | _example(session_id="s-7f3a", n=10, exclude=["995242"])

    session_id: Id | None = Field(None, examples=["s-7f3a"])
    user_id: Id | None = Field(None, examples=["2375"])
    n: int = Field(20, ge=1, le=MAX_N, description="items wanted", examples=[10])
    placement: str = Field("default", description=PLACEMENTS, examples=["basket"])
    item_id: Id | None = Field(
        None, description="the item on the page; never returned", examples=["1082185"]
    )
    filter: Annotated[Any, OBJECT] = Field(
        None, description=FILTER, examples=[{"price": {"lt": 50}, "category": ["shoes", "boots"]}]
    )
    exclude: list[Id] = Field(
        default_factory=list, max_length=MAX_EXCLUDED, description="items not to return"
    )
    boost: Annotated[Any, WithJsonSchema({"type": "array", "items": {"type": "object"}})] = Field(
        None, description=BOOST, examples=[[{"filter": {"in_stock": True}, "factor": 2}]]
    )
    diversity: float | None = Field(
        None,
        ge=0,
        le=1,
        description="how much items are to differ from each other, from 0 (by score alone) to 1; "
        "default: the placement's own, 0 unless configured",
        examples=[0.3],
    )
    min_session_version: int | None = Field(
        None, ge=0, le=MAX_VERSION, description="never answer from an older state", examples=[3]
    )
    explain: bool = Field(False, description="each item's weighted features", examples=[True])
    timings: bool = Field(False, description="microseconds per stage", examples=[True])


class SimilarIn(BaseModel):
    model_config = STRICT

    n: int = Field(20, ge=1, le=MAX_N, description="items wanted", examples=[10])
    filter: str | None = Field(
        None, description=f"JSON text: {FILTER}", examples=['{"price": {"lt": 50}}']
    )


class TrendingIn(SimilarIn):
    by: Literal["item", "category"] = Field(
        "item",
        description="`category`: categories that rise, by a `decayed_count` declared for them, or "
        "two of which one looks back further",
        examples=["category"],
    )


class IdentifyIn(BaseModel):
    model_config = STRICT | _example(user_id="2375")

    user_id: Id = Field(examples=["2375"])


class RecommendedItem(BaseModel):
    item_id: str
    score: float = Field(description="of the ranking; with `diversity` scores need not descend")
    rank: int = Field(description="from 1")
    reason: str = Field(
        description="the source that speaks most for the item; `catalogue`: the bundle does not "
        "know it, and the list would else be shorter than `n`"
    )
    properties: dict[str, Any] | None = Field(
        None, description="what the catalogue knows of the item, as `GET /v1/items/{item_id}` gives"
    )
    features: dict[str, float] | None = Field(None, description="with `explain`")


class RecommendOut(BaseModel):
    """A list of items, best first."""

    recommendation_id: str
    items: list[RecommendedItem]
    bundle: str
    session_version: int = Field(description="the session's state this list reflects")
    tier: str = Field(description="ranker, session, batch or popular")
    timings: dict[str, float] | None = None

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "recommendation_id": "0f6a1c3e5b7d4a6f8c9e0d1b2a3f4c5d",
                "items": [
                    {
                        "item_id": "1029743",
                        "score": 0.83,
                        "rank": 1,
                        "reason": "session_embedding",
                        "properties": {"title": "Rye bread", "price": 2.5, "visible": True},
                    },
                    {"item_id": "995242", "score": 0.71, "rank": 2, "reason": "session_knn"},
                ],
                "bundle": "6d0c1f0a9be24c11",
                "session_version": 3,
                "tier": "ranker",
            }
        }
    )


class ItemIn(BaseModel):
    """What changes of an item: fields not given stay, `null` clears one; so with properties."""

    model_config = STRICT | _example(**ITEM)

    title: str | None = Field(None, max_length=MAX_TITLE, examples=["Trail shoe"])
    category: str | list[str] | None = Field(None, examples=[["shoes", "outdoor"]])
    price: float | None = Field(None, ge=0, examples=[79.5])
    in_stock: bool | None = Field(None, examples=[True])
    image_url: str | None = Field(None, max_length=MAX_URL)
    visible: bool | None = Field(None, description="`false`: in no list", examples=[True])
    properties: dict[str, Any] | None = Field(
        None,
        description="texts, numbers, true and false, or lists of such; "
        f"at most {MAX_PROPERTIES} and {MAX_PROPERTY_BYTES} bytes of JSON",
        examples=[{"brand": "x"}],
    )


class ListedItemIn(ItemIn):
    """A change in a list names its item."""

    model_config = STRICT | _example(item_id="1082185", **ITEM)

    item_id: Id = Field(examples=["1082185"])


class ItemsIn(RootModel[list[ListedItemIn]]):
    """Changes, one after the other; one that is bad does not spoil the others."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": [
                {"item_id": "1082185", "price": 69.5, "in_stock": True},
                {"item_id": "995242", "visible": False},
            ]
        }
    )


class ItemOut(ListedItemIn):
    """What is known of an item."""


class ItemsOut(BaseModel):
    model_config = _example(
        accepted=1,
        rejected=[{"index": 1, "field": "price", "message": "must not be negative, got -1"}],
    )

    accepted: int
    rejected: list[Rejected]


class SimilarOut(BaseModel):
    """Items near one item, best first."""

    model_config = _example(
        items=[
            {"item_id": "1029743", "score": 0.83, "rank": 1, "reason": "embedding"},
            {"item_id": "995242", "score": 0.71, "rank": 2, "reason": "session_knn"},
        ],
        bundle="6d0c1f0a9be24c11",
    )

    items: list[RecommendedItem]
    bundle: str


class RisingCategory(BaseModel):
    category: str
    score: float
    rank: int = Field(description="from 1")


class TrendingOut(BaseModel):
    """What rises most, first: `items`, or `categories` where these are asked for."""

    model_config = _example(
        items=[{"item_id": "1029743", "score": 3.2, "rank": 1, "reason": "trending"}],
        bundle="6d0c1f0a9be24c11",
    )

    items: list[RecommendedItem] | None = None
    categories: list[RisingCategory] | None = None
    bundle: str


class HeldEvent(EventIn):
    """An event as it is held."""

    terms: dict[str, Any] = Field(
        default_factory=dict,
        description="`price` and `category` of the item when the event was accepted, as far as the "
        "catalogue knew them",
        examples=[{"price": 79.5, "category": ["shoes"]}],
    )


class SessionOut(BaseModel):
    """What is held live of a session, in order of arrival."""

    model_config = _example(
        session_id="s-7f3a",
        user_id="2375",
        version=1,
        events=[
            {
                "type": "cart",
                "session_id": "s-7f3a",
                "item_id": "1082185",
                "event_id": "e-1",
                "timestamp": 1772366400.0,
            }
        ],
    )

    session_id: str
    user_id: str | None
    version: int
    events: list[HeldEvent]


class IdentifyOut(BaseModel):
    model_config = _example(session_id="s-7f3a", user_id="2375", version=3, joined=2)

    session_id: str
    user_id: str
    version: int
    joined: int = Field(description="earlier events of the session that became the user's")


class Health(BaseModel):
    status: str = Field(description="ready, degraded or alive")
    bundle: str | None = Field(None, description="the bundle served")
    store: str | None = Field(None, description="up, or what is wrong with Redis")

    model_config = _example(status="ready", bundle="6d0c1f0a9be24c11", store="up")


class FieldError(BaseModel):
    field: str
    message: str


class ProblemOut(BaseModel):
    """RFC 9457 problem."""

    type: str
    title: str
    status: int
    detail: str
    errors: list[FieldError]

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "type": "/problems/invalid-request",
                "title": "Unprocessable Entity",
                "status": 422,
                "detail": "sesion_id: unknown field; did you mean 'session_id'?",
                "errors": [
                    {"field": "sesion_id", "message": "unknown field; did you mean 'session_id'?"}
                ],
            }
        }
    )
