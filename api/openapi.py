"""OpenAPI: bodies and queries are parsed by hand for speed; here they are described."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from api import schemas
from api.body import LINES

REF = "#/components/schemas/{model}"
BODIES = (
    schemas.EventsIn,
    schemas.RecommendIn,
    schemas.IdentifyIn,
    schemas.ItemIn,
    schemas.ItemsIn,
    schemas.ProblemOut,
)
PROBLEM = {"application/problem+json": {"schema": {"$ref": REF.format(model="ProblemOut")}}}
MEANINGS = {
    400: "The body is not JSON in UTF-8",
    404: "Unknown id",
    409: "The session has not reached `min_session_version`",
    413: "The body is too large",
    415: "The body is of another media type",
    422: "A field is unknown or has a value that cannot be used",
    503: "No bundle, Redis cannot be reached or refuses, or there is too much to do",
}


def answers(model: type[BaseModel], status: int, *problems: int) -> dict[int | str, dict[str, Any]]:
    """A route's answers: the good one and its problems."""
    return {status: {"model": model}, **failures(*problems)}


def failures(*problems: int) -> dict[int | str, dict[str, Any]]:
    """A route's problems."""
    return {code: {"description": MEANINGS[code], "content": PROBLEM} for code in problems}


def body_of(model: type[BaseModel], *media_types: str, lines: str = "") -> dict[str, Any]:
    """A route's request body. lines: an example of it as lines of JSON."""
    schema: dict[str, Any] = {"schema": {"$ref": REF.format(model=model.__name__)}}
    content = dict.fromkeys(media_types or ("application/json",), schema)
    if lines:
        content[LINES] = {"schema": {"type": "string"}, "example": lines}
    return {"requestBody": {"required": True, "content": content}}


def query_of(model: type[BaseModel], *left_out: str) -> dict[str, Any]:
    """A route's query parameters: the fields of a model."""
    properties = model.model_json_schema()["properties"]
    return {
        "parameters": [
            {
                "name": name,
                "in": "query",
                "required": False,
                "description": schema.get("description", ""),
                "schema": schema,
            }
            for name, schema in properties.items()
            if name not in left_out
        ]
    }


def install(app: FastAPI) -> None:
    """Have an app describe itself with the bodies' schemas included."""

    def describe() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = get_openapi(
                title=app.title,
                version=app.version,
                description=app.description,
                routes=app.routes,
            )
            _, defined = models_json_schema(
                [(model, "validation") for model in BODIES], ref_template=REF
            )
            components = document.setdefault("components", {}).setdefault("schemas", {})
            components.update(defined["$defs"])
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = describe  # type: ignore[method-assign]  # the documented way
