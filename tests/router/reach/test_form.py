"""The form of what processes tell each other: its number grows with what is told; another one is refused in words."""

import dataclasses
import enum
import inspect
import pickle
import sys
import typing
from collections.abc import Iterator
from hashlib import sha256
from typing import Any

import pytest

from dualmap.router.fleet.actor import Fleet
from dualmap.router.fleet.rebalancer import Rebalancer
from dualmap.router.reach.form import FORM, OWN_FORM, PROGRAM
from dualmap.router.reach.host import HELLO, HERE
from dualmap.router.reach.packed import packed_call, unpacked
from dualmap.router.reach.ray_reach import DONE, REFUSED, Background, BackgroundCall
from dualmap.router.reach.reach import CallError, NoActorError, RefusedFormError
from dualmap.router.scaling.autoscaler import Autoscaler

ACTORS = (Fleet, Rebalancer, Autoscaler)
OF_THEIR_OWNER = {"__init__", "wanted"}  # which is always of the same program
RECORDED = {1: "5eb204165aeeeac2"}  # by form


def told() -> Iterator[str]:
    """A line for each method that is called from elsewhere, and for each class of which objects are told."""
    seen: set[Any] = set()
    for actor in ACTORS:
        for name, method in sorted(inspect.getmembers(actor, inspect.iscoroutinefunction)):
            if not name.startswith("_") and name not in OF_THEIR_OWNER:
                yield f"{actor.__name__}.{name}{inspect.signature(method)}"
                for hint in typing.get_type_hints(method).values():
                    yield from fields_of(hint, seen)


def fields_of(kind: Any, seen: set[Any]) -> Iterator[str]:
    if kind in seen:
        return
    seen.add(kind)
    for part in typing.get_args(kind):
        yield from fields_of(part, seen)
    if isinstance(kind, type) and (dataclasses.is_dataclass(kind) or hasattr(kind, "_fields")):
        hints = {name: hint for name, hint in typing.get_type_hints(kind).items() if hint is not dataclasses.KW_ONLY}
        yield f"{kind.__module__}.{kind.__name__}: {', '.join(f'{name}: {hint}' for name, hint in hints.items())}"
        for hint in hints.values():
            yield from fields_of(hint, seen)
    elif isinstance(kind, type) and issubclass(kind, enum.Enum):
        yield f"{kind.__name__}: {', '.join(str(member.value) for member in kind)}"


@pytest.mark.release  # a form that no release has had may still change
@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="other versions of Python write types in other ways")
def test_the_form_has_another_number_where_what_is_told_has_changed():
    digest = sha256("\n".join(sorted(told())).encode()).hexdigest()[:16]
    assert RECORDED.get(FORM) == digest, (
        "what gateways, instances and Fleet tell each other has changed: raise FORM in router/reach/form.py, unless no"
        f" release has had it yet, and record {digest} for it here"
    )


def test_what_is_told_is_looked_at_down_to_its_smallest_parts():
    lines = "\n".join(told())
    for name in (
        "Fleet.sync(",
        "GatewayReport: ",
        "InstanceLoad: ",
        "InstanceCapacity: ",
        "MemberState: ",
        "SchedulerConfig: ",
    ):
        assert name in lines, name


@pytest.fixture
def background(monkeypatch):
    monkeypatch.setattr(HERE, "name", "")
    monkeypatch.setattr(HERE, "actors", {"rebalancer": Rebalancer()})
    return Background()


class Spy:
    """unpickled: whether it was."""

    unpickled = False

    def __setstate__(self, state: object) -> None:
        Spy.unpickled = True


async def test_who_is_of_another_form_is_told_so_and_nothing_of_it_is_unpickled(background):
    spy = Spy()
    spy.some = 1
    pickled = pickle.dumps(("rebalancer", "plan", (spy, None)))
    outcome, answer = await background.call("form 0, pure Python", "dualmap 0.0.9 (form 0, pure Python)", pickled)
    assert outcome == REFUSED
    assert answer.decode() == (
        f"the caller is dualmap 0.0.9 (form 0, pure Python), and what it calls is {PROGRAM}: make both of one form"
    )
    assert not Spy.unpickled


async def test_two_versions_of_one_form_understand_each_other(background):
    outcome, answer = await background.call(OWN_FORM, "dualmap 0.0.9 (of whatever)", packed_call("", HELLO, ()))
    assert (outcome, unpacked(answer, failed=False)) == (DONE, None)


class Told:
    """A call of Ray's that has ended with this."""

    def __init__(self, outcome: tuple[str, bytes]) -> None:
        self._outcome = outcome

    def result(self, timeout_s: float | None = None) -> tuple[str, bytes]:
        return self._outcome


def test_a_caller_hears_that_it_was_refused():
    with pytest.raises(RefusedFormError, match="make both of one form"):
        BackgroundCall(Told((REFUSED, b"make both of one form"))).result()


async def test_a_caller_hears_what_went_wrong(background):
    with pytest.raises(NoActorError, match="background has no actor 'fleet'"):
        BackgroundCall(Told(await background.call(OWN_FORM, PROGRAM, packed_call("fleet", "state", ())))).result()
    with pytest.raises(CallError) as raised:
        BackgroundCall(
            Told(await background.call(OWN_FORM, PROGRAM, packed_call("rebalancer", "plan", (1, 2))))
        ).result()
    assert isinstance(raised.value.cause, AttributeError)
