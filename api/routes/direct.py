"""Direct routes, past what FastAPI does around a handler, which takes as long as the handler's own
work: for what every page asks for. The same handlers are included in the application as well, which
describes them."""

from starlette.routing import Match, Route
from starlette.types import Scope


class Direct(Route):
    """Starlette's route, which says to the metrics that it answered."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        match, found = super().matches(scope)
        return match, {**found, "route": self}
