"""Actors of Ray, as reach.py describes them."""

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from dualmap.router.reach.reach import CallError, NoActorError


@contextmanager
def ray_errors() -> Iterator[None]:
    """What Ray raises is a CallError outside of the block."""
    try:
        yield
    except RayTaskError as error:
        raise CallError(str(error), error.cause) from None
    except RayError as error:
        raise CallError(str(error) or type(error).__name__) from None


class RayCall:
    def __init__(self, ref: Any) -> None:
        self._ref = ref

    def __await__(self) -> Generator[Any, None, Any]:
        with ray_errors():
            return (yield from self._ref.__await__())

    def done(self) -> bool:
        return bool(ray.wait([self._ref], timeout=0)[0])

    def result(self, timeout_s: float | None = None) -> Any:
        with ray_errors():
            return ray.get(self._ref, timeout=timeout_s)


class RayHandle:
    def __init__(self, actor: Any) -> None:
        self._actor = actor

    def call(self, method: str, *arguments: Any) -> RayCall:
        with ray_errors():
            return RayCall(getattr(self._actor, method).remote(*arguments))

    def kill(self) -> None:
        ray.kill(self._actor)


class RayReach:
    """namespace: of the deployment's actors."""

    def __init__(self, namespace: str) -> None:
        self._namespace = namespace

    def __call__(self, name: str, anew: bool = False) -> RayHandle:
        return (_named if anew else _known)(self._namespace, name)

    def was_restarted(self) -> bool:
        return ray.is_initialized() and bool(ray.get_runtime_context().was_current_actor_reconstructed)


def _named(namespace: str, name: str) -> RayHandle:
    try:
        return RayHandle(ray.get_actor(name, namespace=namespace))
    except ValueError as error:
        raise NoActorError(str(error)) from None


_known = cache(_named)
