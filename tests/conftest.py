"""Shared fixtures: one real embedded server for all tests, a namespace for each."""

import os
import secrets
from collections.abc import AsyncIterator, Iterator

import pytest
from hypothesis import settings
from redis import Redis

from recsys.embedded import EmbeddedRedis
from recsys.store import Store, StoreConfig

# A busy machine is slow, which is no flaw: neither of a test, nor of the servers that it starts.
os.environ["RECSYS_MAX_WAIT"] = "60"
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Tests marked ``anyio`` run on asyncio."""
    return "asyncio"


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedRedis]:
    """A real server on a private socket."""
    with EmbeddedRedis.start(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def namespace() -> str:
    """A namespace no other test uses."""
    return f"test-{secrets.token_hex(6)}"


@pytest.fixture
async def store(redis_server: EmbeddedRedis, namespace: str) -> AsyncIterator[Store]:
    """A store of its own on the shared server. Caps are small so that tests can reach them; nobody
    is put into quarantine."""
    # The limit is for production; a test machine may be busy.
    config = StoreConfig(
        namespace=namespace,
        session_cap=5,
        user_cap=8,
        max_velocity=1e9,
        max_repetition=10**9,
        max_alike=10**9,
        timeout=5.0,
    )
    store = Store(redis_server.url, config)
    yield store
    await store.close()


@pytest.fixture
def redis(redis_server: EmbeddedRedis) -> Iterator[Redis]:
    """A plain client, to look behind the store."""
    with Redis.from_url(redis_server.url) as client:
        yield client
