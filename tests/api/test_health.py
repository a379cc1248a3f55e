"""Health, metrics and the description of the API."""

import pytest

from api.schemas import EventIn, RecommendIn
from recsys.bundle import Bundle
from tests.api.conftest import Served

pytestmark = pytest.mark.anyio


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
        "/v1/items/{item_id}/similar",
        "/v1/sessions/{session_id}",
        "/v1/sessions/{session_id}/identify",
        "/health/live",
        "/health/ready",
        "/metrics",
    }
    schemas = document["components"]["schemas"]
    assert set(schemas["EventIn"]["properties"]) == set(EventIn.model_fields)
    assert set(schemas["RecommendIn"]["properties"]) == set(RecommendIn.model_fields)
    references = set(_references(document))
    assert {r.removeprefix("#/components/schemas/") for r in references} <= set(schemas)
    body = document["paths"]["/v1/events"]["post"]["requestBody"]["content"]
    assert set(body) == {"application/json", "text/plain"}


def _references(node: object) -> list[str]:
    if isinstance(node, dict):
        own = [node["$ref"]] if isinstance(node.get("$ref"), str) else []
        return own + [r for child in node.values() for r in _references(child)]
    if isinstance(node, list):
        return [r for child in node for r in _references(child)]
    return []
