"""Direct: what every page asks for, past what FastAPI and Starlette do around a handler, which is
as much as to read and to answer a request. The same handlers are routes of the application as well,
which describe them, and say which methods there are."""

from collections.abc import Sequence

from fastapi import Request
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from api.errors import Problem, crash


class Direct:
    """Answers for routes without parameters; hands all else on."""

    def __init__(self, app: ASGIApp, routes: Sequence[Route]) -> None:
        self.app = app
        self._routes: dict[tuple[str, str], Route] = {}
        for route in routes:
            self.add(route)

    def add(self, route: Route) -> None:
        """The last of a path counts."""
        self._routes |= {(method, route.path): route for method in route.methods or ()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        route = None
        if scope["type"] == "http":
            route = self._routes.get((scope["method"], scope["path"]))
        if route is None:
            await self.app(scope, receive, send)
            return
        scope["route"] = route  # for the metrics
        request = Request(scope, receive)
        try:
            response = await route.endpoint(request)
        except Problem as problem:
            response = problem.response()
        except Exception as error:
            response = await crash(request, error)
            await response(scope, receive, send)
            raise  # for the log
        await response(scope, receive, send)
