"""Who looks at each request without having a say in it: the request log, and traces."""

from typing import Protocol

from dualmap.router.apis.routes import Route
from dualmap.router.observe.metrics import Outcome
from dualmap.router.requests.driven import Driven


class RequestWatcher(Protocol):
    def begun(self, exchange: Driven, route: Route) -> None:
        """It has come, and nothing has been done with it."""
        ...

    def ended(self, exchange: Driven, outcome: Outcome, status: int) -> None:
        """It is over. status: of the answer, 0 where there was none."""
        ...
