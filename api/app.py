"""The application: one engine per process, its routes, its errors, its description."""

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

from fastapi import FastAPI
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from api import errors, openapi
from api.admission import Admission
from api.engine import Engine
from api.routes import events, health, items, recommendations, sessions, trending
from api.routes.direct import Direct
from api.settings import Settings, from_environment
from api.telemetry import Telemetry
from recsys.registry import Registry
from recsys.store import Store, StoreUnavailable

DESCRIPTION = "Recommendations that follow what the visitor is doing right now."


class App(FastAPI):
    """FastAPI's application; what looks at every request, and what answers most, stands around it
    rather than within, below the layers of FastAPI and Starlette. direct: the innermost of these.
    """

    def __init__(self, settings: Settings, **more: Any) -> None:
        super().__init__(**more)
        self.direct = Direct(
            super().__call__,
            [
                Route("/v1/events", events.record_events, methods=["POST"]),
                Route(
                    "/v1/recommendations", recommendations.post_recommendations, methods=["POST"]
                ),
            ],
        )
        # Around all else: what is refused is to cost next to nothing.
        self.admission = Admission(Telemetry(self.direct), settings.max_wait)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["app"] = self
        await self.admission(scope, receive, send)


def create_app(settings: Settings | None = None, now: Callable[[], float] = time.time) -> App:
    """The API. settings: default those of the environment. now: the clock, Unix seconds."""
    settings = settings or from_environment(os.environ)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        registry = Registry(settings.data_dir / "bundles")
        store = Store(settings.redis_url, settings.store)
        engine = Engine(settings, store, registry, now, is_late=app.admission.is_late)
        app.state.engine = engine
        with contextlib.suppress(StoreUnavailable):  # connected, and read, before the first request
            await engine.up_to_date_shelf()
        await engine.refresh()
        works = (engine.watch(), engine.follow(), engine.quality.run())
        tasks = [asyncio.create_task(work) for work in works]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await engine.store.close()

    app = App(
        settings,
        title="recsys",
        version="1",
        description=DESCRIPTION,
        lifespan=lifespan,
        # FastAPI's own looks on every request whether somebody listens; /metrics has it all.
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )
    errors.install(app)
    openapi.install(app)
    for routes in (events, recommendations, items, trending, sessions, health):
        app.include_router(routes.router)
    return app
