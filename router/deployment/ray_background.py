"""The background process over Ray, to its owner: whenever it has died and Ray has started it again, its actors are made
anew."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from dualmap.router.deployment.own_instances import NO_CPU
from dualmap.router.reach.host import MAKE
from dualmap.router.reach.names import BACKGROUND
from dualmap.router.reach.packed import packed_call
from dualmap.router.reach.ray_reach import Background, BackgroundCall, InBackground, RayHandle, begin
from dualmap.router.reach.reach import CallError, NoActorError


class RayBackground:
    """It ends with this process."""

    def __init__(self) -> None:
        """Raises ValueError where another deployment has one on this Ray cluster."""
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
        options: dict[str, Any] = {"name": BACKGROUND, "scheduling_strategy": here, **NO_CPU}
        self._process = RayHandle(ray.remote(Background).options(**options).remote())
        self._makes: dict[str, bytes] = {}  # by actor: the call that makes it
        self._making: dict[str, BackgroundCall] = {}

    def make(self, cls: str, name: str, arguments: tuple[Any, ...]) -> "OwnActor":
        """An actor of a class, module:class. Waits for nothing: calls of it do."""
        self._makes[name] = packed_call("", MAKE, (cls, name, arguments))
        self._make(name)
        return OwnActor(self, InBackground(self._process, name), name)

    def _make(self, name: str) -> None:
        self._making[name] = BackgroundCall(begin(self._process, self._makes[name]))

    def await_made(self, name: str, timeout_s: float | None) -> None:
        """Raises CallError."""
        self._making[name].result(timeout_s)

    def made_anew(self, name: str, error: CallError) -> CallError:
        """An actor was not there: have all made that are not. What to say of the call that has found that."""
        making = self._making[name]
        if making.done():
            try:
                making.result()
            except CallError as why:
                error = CallError(f"{name} cannot be started: {why}")
        for other in self._makes:
            self._make(other)
        return error


class OwnActor:
    """See Owned."""

    def __init__(self, owner: RayBackground, actor: InBackground, name: str) -> None:
        self._owner = owner
        self._actor = actor
        self._name = name

    def call(self, method: str, *arguments: Any) -> "OwnCall":
        return OwnCall(lambda: self._actor.call(method, *arguments), self._owner, self._name)

    def kill(self) -> None:
        """The process has other actors, and ends with this one."""


class OwnCall:
    """See Call."""

    def __init__(self, begin: Callable[[], BackgroundCall], owner: RayBackground, name: str) -> None:
        self._begin = begin
        self._call = begin()
        self._owner = owner
        self._name = name

    def done(self) -> bool:
        return self._call.done()

    def result(self, timeout_s: float | None = None) -> Any:
        try:
            return self._call.result(timeout_s)
        except NoActorError:  # Ray may have run this call before the one that makes the actor
            with suppress(CallError):
                self._owner.await_made(self._name, timeout_s)
            self._call = self._begin()
        try:
            return self._call.result(timeout_s)
        except NoActorError as error:
            raise self._owner.made_anew(self._name, error) from None
