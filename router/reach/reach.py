"""How the parts of a deployment call each other, whatever runs them: Ray, or processes of this machine alone.

An actor is an object of a plain class whose methods are coroutines. Who has its name, or made it, calls a method by
name. A call is made once: one that was under way when the actor's process ended has failed, and is not made again.
"""

from collections.abc import Awaitable
from typing import Any, Protocol


class CallError(Exception):
    """The call came to no answer. cause: what the method raised; None where the actor is away, or late."""

    def __init__(self, message: str, cause: Exception | None = None) -> None:
        super().__init__(message)
        self.cause = cause


class NoActorError(CallError):
    """There is no actor of that name, or not yet."""


class RefusedFormError(CallError):
    """What was called is of another version, and does not understand the caller; the message says so."""


class Reached(Protocol):
    """An actor, to one that has an event loop."""

    def call(self, method: str, *arguments: Any) -> Awaitable[Any]:
        """Begins at once, or when it is awaited. Awaiting it raises CallError."""


class Reach(Protocol):
    """Finds actors by their names: one that was handed over would tie a restart to its giver. Can be pickled."""

    def __call__(self, name: str, anew: bool = False) -> Reached:
        """What it returns stays good when the actor is restarted. anew: another actor may have had the name before.
        Raises NoActorError."""

    def was_restarted(self) -> bool:
        """Whether this process is in place of one that died."""


class Call(Protocol):
    """Under way from the beginning."""

    def done(self) -> bool:
        """Waits for nothing."""

    def result(self, timeout_s: float | None = None) -> Any:
        """Raises CallError, also where it takes longer."""


class Owned(Protocol):
    """An actor, to the process that made it: one without an event loop. It ends with this process."""

    def call(self, method: str, *arguments: Any) -> Call: ...

    def kill(self) -> None:
        """For good. What it had under way has failed."""
