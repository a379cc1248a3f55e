"""Health, metrics and the description of the API."""

import json

import pytest

from api import schemas
from api.schemas import EventIn, RecommendIn
from recsys.bundle import Bundle
from tests.api.conftest import Served

pytestmark = pytest.mark.anyio

LINES = {"content-type": "application/x-ndjson"}


async def test_ready(api: Served, bundle: Bundle) -> None:
    """With a bundle and Redis the API is ready and names the bundle."""
    response = await api.client.get("/health/ready")
    assert response.json() == {"status": "ready", "bundle": bundle.version, "store": "up"}


async def test_metrics(api: Served, bundle: Bundle) -> None:
    """Prometheus text counts requests by route, events by outcome, lists by tier."""
    await api.click("i1", session="some-session")
    await api.post("/v1/recommendations", {"session_id": "some-session"})
    response = await api.client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain")
    for line in (
        'recsys_http_requests_total{method="POST",route="/v1/events",status="202"}',
        'recsys_recommendations_total{tier="session"}',
        'recsys_events_total{outcome="accepted"}',
        f'recsys_bundle_info{{version="{bundle.version}"}} 1.0',
    ):
        assert line in response.text
    assert "some-session" not in response.text


async def test_openapi(api: Served) -> None:
    """Every route is described with its schemas and examples, and every reference resolves."""
    document = (await api.client.get("/openapi.json")).json()
    assert set(document["paths"]) >= {
        "/v1/events",
        "/v1/recommendations",
        "/v1/items",
        "/v1/items/{item_id}",
        "/v1/items/{item_id}/similar",
        "/v1/sessions/{session_id}",
        "/v1/sessions/{session_id}/identify",
        "/health/live",
        "/health/ready",
        "/metrics",
    }
    described = document["components"]["schemas"]
    assert set(described["EventIn"]["properties"]) == set(EventIn.model_fields)
    assert set(described["RecommendIn"]["properties"]) == set(RecommendIn.model_fields)
    references = set(_references(document))
    assert {r.removeprefix("#/components/schemas/") for r in references} <= set(described)
    body = document["paths"]["/v1/events"]["post"]["requestBody"]["content"]
    assert set(body) == {"application/json", "text/plain"}


async def test_everything_described_has_an_example(api: Served) -> None:
    """Each parameter, body and answer has one, and each of a model fits the model."""
    document = (await api.client.get("/openapi.json")).json()
    models = set()
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            place = f"{method} {path}"
            for parameter in operation.get("parameters", []):
                assert parameter["schema"].get("examples"), (place, parameter)
            described = [operation.get("requestBody", {}), *operation["responses"].values()]
            for content in (c for part in described for c in part.get("content", {}).values()):
                reference = content.get("schema", {}).get("$ref")
                assert reference or content.get("example"), (place, content)
                if reference:
                    models.add(reference.removeprefix("#/components/schemas/"))
    assert len(models) >= 9
    for name in models:
        example = document["components"]["schemas"][name].get("example")
        assert example, name
        getattr(schemas, name).model_validate_json(json.dumps(example), strict=True)


async def test_examples_of_filters_and_boosts_can_be_used(api: Served) -> None:
    """What the description shows is accepted as it is."""
    document = (await api.client.get("/openapi.json")).json()
    fields = document["components"]["schemas"]["RecommendIn"]["properties"]
    for name in ("filter", "boost"):
        response = await api.post("/v1/recommendations", {name: fields[name]["examples"][0]})
        assert response.status_code == 200, response.text
    for path in ("/v1/items/{item_id}/similar", "/v1/trending"):
        parameters = {p["name"]: p for p in document["paths"][path]["get"]["parameters"]}
        query = {"filter": parameters["filter"]["schema"]["examples"][0]}
        response = await api.client.get(path.replace("{item_id}", "i1"), params=query)
        assert response.status_code == 200, response.text
    bulk = document["paths"]["/v1/items"]["post"]["requestBody"]["content"]
    lines = bulk["application/x-ndjson"]["example"]
    response = await api.client.post("/v1/items", content=lines, headers=LINES)
    assert response.json() == {"accepted": 2, "rejected": []}


def _references(node: object) -> list[str]:
    if isinstance(node, dict):
        own = [node["$ref"]] if isinstance(node.get("$ref"), str) else []
        return own + [r for child in node.values() for r in _references(child)]
    if isinstance(node, list):
        return [r for child in node for r in _references(child)]
    return []
