"""Who looks at each request without having a say in it: the request log, and traces."""

from typing import Protocol

from router.driven import Driven
from router.metrics import Outcome
from router.routes import Route


class RequestWatcher(Protocol):
    def begun(self, exchange: Driven, route: Route) -> None:
        """It has come, and nothing has been done with it."""
        ...

    def ended(self, exchange: Driven, outcome: Outcome, status: int) -> None:
        """It is over. status: of the answer, 0 where there was none."""
        ...
