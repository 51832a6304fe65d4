"""Actors over Ray, as reach.py describes them: those of the background process, and Ray's own, one for each gateway and
each server that is started here."""

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from dualmap.router.reach.form import OWN_FORM, PROGRAM, why_refused
from dualmap.router.reach.host import HERE, Here
from dualmap.router.reach.names import BACKGROUND
from dualmap.router.reach.packed import packed_call, unpacked
from dualmap.router.reach.reach import CallError, NoActorError, Reached, RefusedFormError

DONE, FAILED, REFUSED = "done", "failed", "refused"  # what becomes of a call of the background process


class Background:
    """Ray's actor that is the background process. It is called with plain values, and answers in them: who calls may be
    of another program."""

    def __init__(self) -> None:
        HERE.name = BACKGROUND

    async def call(self, form: str, program: str, pickled: bytes) -> tuple[str, bytes]:
        """What became of a call, and its answer."""
        if why := why_refused(form, program):
            return REFUSED, why.encode()
        answer, failed = await HERE.answer(pickled)
        return FAILED if failed else DONE, answer


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
    """An actor of its own."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    def call(self, method: str, *arguments: Any) -> RayCall:
        with ray_errors():
            return RayCall(getattr(self._actor, method).remote(*arguments))

    def kill(self) -> None:
        ray.kill(self._actor)


class BackgroundCall:
    """Of an actor in the background process."""

    def __init__(self, call: RayCall) -> None:
        self._call = call

    def __await__(self) -> Generator[Any, None, Any]:
        return _answer((yield from self._call.__await__()))

    def done(self) -> bool:
        return self._call.done()

    def result(self, timeout_s: float | None = None) -> Any:
        return _answer(self._call.result(timeout_s))


class InBackground:
    """An actor in the background process. background: that process."""

    def __init__(self, background: RayHandle, name: str) -> None:
        self._background = background
        self._name = name

    def call(self, method: str, *arguments: Any) -> BackgroundCall:
        return BackgroundCall(begin(self._background, packed_call(self._name, method, arguments)))


class RayReach:
    """namespace: of the deployment's actors."""

    def __init__(self, namespace: str) -> None:
        self._namespace = namespace

    def __call__(self, name: str, anew: bool = False) -> Reached:
        """anew: it is one of a server, which comes and goes, or in this process."""
        if name in HERE.actors:
            return Here(name)
        return named_actor(self._namespace, name) if anew else self.in_background(name)

    def in_background(self, name: str) -> InBackground:
        """Raises NoActorError."""
        return InBackground(_known(self._namespace, BACKGROUND), name)

    def was_restarted(self) -> bool:
        return ray.is_initialized() and bool(ray.get_runtime_context().was_current_actor_reconstructed)


def begin(background: RayHandle, pickled: bytes) -> RayCall:
    """A call of the background process: its outcome is what Background.call returns."""
    return background.call("call", OWN_FORM, PROGRAM, pickled)


def _answer(told: tuple[str, bytes]) -> Any:
    """Raises CallError."""
    outcome, answer = told
    if outcome == REFUSED:
        raise RefusedFormError(answer.decode())
    return unpacked(answer, failed=outcome == FAILED)


def named_actor(namespace: str, name: str) -> RayHandle:
    """One of Ray's own. Raises NoActorError."""
    try:
        return RayHandle(ray.get_actor(name, namespace=namespace))
    except ValueError as error:
        raise NoActorError(str(error)) from None


_known = cache(named_actor)
