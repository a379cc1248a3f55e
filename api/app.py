"""The application: one engine per process, its routes, its errors, its description."""

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Callable

from fastapi import FastAPI
from starlette.routing import Route

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


def create_app(settings: Settings | None = None, now: Callable[[], float] = time.time) -> FastAPI:
    """The API. settings: default those of the environment. now: the clock, Unix seconds."""
    settings = settings or from_environment(os.environ)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        registry = Registry(settings.data_dir / "bundles")
        engine = Engine(settings, Store(settings.redis_url, settings.store), registry, now)
        app.state.engine = engine
        with contextlib.suppress(StoreUnavailable):  # connected, and read, before the first request
            await engine.up_to_date_shelf()
        await engine.refresh()
        tasks = [asyncio.create_task(work) for work in (engine.watch(), engine.quality.run())]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await engine.store.close()

    app = FastAPI(
        title="recsys",
        version="1",
        description=DESCRIPTION,
        lifespan=lifespan,
        # FastAPI's own looks on every request whether somebody listens; /metrics has it all.
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )
    app.state.direct = [
        Route("/v1/events", events.record_events, methods=["POST"]),
        Route("/v1/recommendations", recommendations.post_recommendations, methods=["POST"]),
    ]
    app.add_middleware(Direct, routes=app.state.direct)
    app.add_middleware(Telemetry)
    # Around all else: what is refused is to cost next to nothing.
    app.add_middleware(Admission, longest=settings.max_wait)
    errors.install(app)
    openapi.install(app)
    for routes in (events, recommendations, items, trending, sessions, health):
        app.include_router(routes.router)
    return app
