"""Every error is a problem that names its cause."""

import dataclasses
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis import Redis

from api import telemetry
from api.routes import events, health, recommendations
from api.settings import Settings
from recsys.embedded import EmbeddedRedis
from tests.api.conftest import Served, running

pytestmark = pytest.mark.anyio

Check = Callable[[httpx.Response, int], dict[str, Any]]
JSON = {"content-type": "application/json"}


async def test_unknown_paths_and_methods(api: Served, problem: Check) -> None:
    """404 names the path; 405 names the method and lists what is offered."""
    missing = problem(await api.client.get("/v2/events"), 404)
    assert "there is nothing at /v2/events" in missing["detail"]
    response = await api.client.get("/v1/events")
    assert "GET is not offered" in problem(response, 405)["detail"]
    assert response.headers["allow"] == "POST"


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        (b"", "the body is empty"),
        (b'{"events": [}', "line 1 column 13 (char 12)"),
        (b'{"events": "\xff"}', "not UTF-8: byte 0xff at position 12"),
        (b'{"a": "\\ud800"}', "no low surrogate"),
        (b"[" * 100_000, "not JSON"),
    ],
)
async def test_what_is_no_json(api: Served, problem: Check, body: bytes, detail: str) -> None:
    """400 names the position where the body stops to be UTF-8 or JSON."""
    for path in ("/v1/events", "/v1/recommendations", "/v1/sessions/s/identify"):
        response = await api.client.post(path, content=body, headers=JSON)
        assert detail in problem(response, 400)["detail"]


@pytest.mark.parametrize(
    "path", ["/v1/events", "/v1/recommendations", "/v1/items", "/v1/sessions/s/identify"]
)
async def test_who_leaves_amid_the_body_is_no_failure(
    api: Served, caplog: pytest.LogCaptureFixture, path: str
) -> None:
    """Nothing is logged: a phone that loses its network is nobody's concern at night."""
    messages = [{"type": "http.request", "body": b'{"eve', "more_body": True}]
    told = []

    async def receive() -> dict[str, object]:
        return messages.pop() if messages else {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        told.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(b"content-type", b"application/json"), (b"content-length", b"100")],
    }
    await api.app(scope, receive, send)
    assert told[0]["status"] == 400
    assert not caplog.records


async def test_bodies_over_the_limit(api: Served, problem: Check) -> None:
    """413, whether the length is declared or the body comes in chunks."""
    big = b" " * (2 * 1024 * 1024 + 1)

    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(big), 65536):
            yield big[start : start + 65536]

    for content in (big, chunks()):
        response = await api.client.post("/v1/events", content=content, headers=JSON)
        assert "larger than 2097152 bytes" in problem(response, 413)["detail"]
    padded = json.dumps({"events": [{"type": "search", "session_id": "s"}]}).ljust(2 * 1024 * 1024)
    response = await api.client.post("/v1/events", content=padded, headers=JSON)
    assert response.status_code == 202


async def test_other_media_types(api: Served, problem: Check) -> None:
    """A form is refused with the types that are taken."""
    response = await api.client.post("/v1/recommendations", data={"n": "3"})
    assert "must be application/json" in problem(response, 415)["detail"]


async def test_the_store_refusing_writes_is_told(
    api: Served, problem: Check, settings: Settings, tmp_path: Path
) -> None:
    """503 has the words of a Redis that takes no writes, and says only that of one out of reach."""
    click = {"type": "click", "session_id": "s", "item_id": "i1"}
    calls = (("/v1/events", {"events": [click]}), ("/v1/sessions/s/identify", {"user_id": "u"}))
    with EmbeddedRedis.start(tmp_path) as server, Redis.from_url(server.url) as redis:
        async with running(dataclasses.replace(settings, redis_url=server.url)) as full:
            redis.config_set("maxmemory", 1)
            for path, body in calls:
                told = problem(await full.post(path, body), 503)["detail"]
                assert "Redis does not take writes: command not allowed when used memory" in told
                assert "cannot be reached" not in told
            server.stop()
            for path, body in calls:
                told = problem(await full.post(path, body), 503)["detail"]
                assert "(Redis cannot be reached): not confirmed; try again" in told


async def test_a_crash_is_a_problem_without_inner_details(
    api: Served, problem: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    """500 is a problem too, and shows nothing of the inside."""

    def broken() -> None:
        raise RuntimeError("secret")

    with monkeypatch.context() as patched:
        patched.setattr(health.telemetry, "exposition", broken)
        response = await api.client.get("/metrics")
    problem(response, 500)
    assert "secret" not in response.text


@pytest.mark.parametrize("path", ["/v1/events", "/v1/recommendations"])
async def test_a_crash_on_the_direct_way_is_none_the_less(
    api: Served,
    problem: Check,
    path: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What goes past FastAPI answers 500, is counted, and is raised to whoever logs it."""

    async def broken(*_: object) -> None:
        raise RuntimeError("secret")

    counted = telemetry.labelled(telemetry.requests, "POST", path, 500)
    before = counted._value.get()
    with monkeypatch.context() as patched:
        for routes in (events, recommendations):
            patched.setattr(routes, "read_object", broken)
        response = await api.post(path, {})
        problem(response, 500)
        assert "secret" not in response.text
        strict = httpx.ASGITransport(api.app)
        async with httpx.AsyncClient(transport=strict, base_url="http://test") as client:
            with pytest.raises(RuntimeError, match="secret"):
                await client.post(path, json={})
    assert counted._value.get() == before + 2
    assert f"POST {path} failed: RuntimeError('secret')" in caplog.text
    assert (await api.click("c1_i1")).status_code == 202
