"""Direct: what every page asks for, past what FastAPI and Starlette do around a handler, which is
as much as to read and to answer a request. The same handlers are routes of the application as well,
which describe them, and say which methods there are."""

from collections.abc import Sequence

from fastapi import Request
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from api.errors import Problem


class Direct:
    """Answers for routes without parameters, of which the last of a path counts; hands all else on.

    A middleware, to be the innermost: what the others do is done for these, too.
    """

    def __init__(self, app: ASGIApp, routes: Sequence[Route]) -> None:
        self.app = app
        self.routes = {
            (method, route.path): route for route in routes for method in route.methods or ()
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        route = None
        if scope["type"] == "http":
            route = self.routes.get((scope["method"], scope["path"]))
        if route is None:
            await self.app(scope, receive, send)
            return
        scope["route"] = route  # for the metrics
        try:
            response = await route.endpoint(Request(scope, receive))
        except Problem as problem:
            response = problem.response()
        await response(scope, receive, send)
