"""The API in process, over a real store and a small real bundle."""

import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from api.app import create_app
from api.settings import Settings
from recsys.bundle import Bundle
from recsys.embedded import EmbeddedRedis
from recsys.registry import Registry
from recsys.store import StoreConfig
from recsys.training import train
from tests.synthetic import checkerboard, small_config

NOW = 1_800_000_000.0  # Unix seconds


@dataclass
class Served:
    """An application that runs, and a client that talks to it."""

    app: FastAPI
    client: httpx.AsyncClient

    async def post(self, path: str, payload: object) -> httpx.Response:
        return await self.client.post(path, json=payload)

    async def click(self, *items: str, session: str = "s", **fields: object) -> httpx.Response:
        events = [
            {"type": "click", "session_id": session, "item_id": item, **fields} for item in items
        ]
        return await self.post("/v1/events", {"events": events})


@contextlib.asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[Served]:
    app = create_app(settings, now=lambda: NOW)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://test") as client,
    ):
        yield Served(app, client)


@pytest.fixture(scope="session")
def bundle() -> Bundle:
    """Even users view even items, odd users odd ones."""
    return train(checkerboard(), small_config())


@pytest.fixture(scope="session")
def data_dir(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with the bundle published."""
    folder = tmp_path_factory.mktemp("data")
    Registry(folder / "bundles").publish(bundle)
    return folder


@pytest.fixture
def settings(data_dir: Path, redis_server: EmbeddedRedis, namespace: str) -> Settings:
    # These limits are for production; a test machine may be busy.
    config = StoreConfig(
        namespace, max_velocity=1e9, max_repetition=10**9, max_alike=10**9, timeout=5.0
    )
    return Settings(data_dir, redis_server.url, max_wait=60.0, store=config)


@pytest.fixture
async def api(settings: Settings) -> AsyncIterator[Served]:
    """The API with a bundle and a store."""
    async with running(settings) as served:
        yield served


@pytest.fixture
def problem() -> Callable[[httpx.Response, int], dict[str, object]]:
    """Checks that an answer is a complete RFC 9457 problem and returns it."""

    def check(response: httpx.Response, status: int) -> dict[str, object]:
        assert response.status_code == status, response.text
        assert response.headers["content-type"] == "application/problem+json"
        body: dict[str, object] = response.json()
        assert set(body) == {"type", "title", "status", "detail", "errors"}
        assert body["status"] == status
        assert body["detail"]
        return body

    return check
