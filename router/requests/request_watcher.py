"""Who looks at each request without having a say in it: the request log, and traces."""

from typing import Protocol

from dualmap.router.http.openai_errors import HttpError
from dualmap.router.observe.metrics import Outcome
from dualmap.router.requests.asked import Arrived, Prompt
from dualmap.router.requests.driven import Driven


class RequestWatcher(Protocol):
    def begun(self, arrived: Arrived) -> None:
        """It has come, and nothing has been done with it."""
        ...

    def refused(self, arrived: Arrived, prompt: Prompt | None, error: HttpError) -> None:
        """It was not admitted. prompt: None where the request could not be read."""
        ...

    def ended(self, driven: Driven, outcome: Outcome, status: int) -> None:
        """It was admitted and is over. status: of the answer, 0 where there was none."""
        ...
