"""What the Watcher is told of instances that leave and come again, as with another role."""

from dataclasses import replace
from typing import Any

from dualmap.instances.spec import InstanceSpec
from dualmap.router.deployment.watched_instances import WatchedInstances
from dualmap.scheduler.fleet.endpoint import Endpoint
from dualmap.scheduler.fleet.member import Member, MemberState
from dualmap.scheduler.instance_capacity import InstanceCapacity
from dualmap.scheduler.role import Role
from tests.router.deployment.answered import Answered

ID = "10.0.0.1:8000"
ENDPOINT = Endpoint("10.0.0.1", 8000)
SPEC = InstanceSpec(ID, InstanceCapacity(), endpoint=ENDPOINT, role=Role.PREFILL)


class Actor:
    """In place of the Watcher, which takes each list at once, and of Fleet. known: the members of the last list.
    forgotten: by Fleet."""

    reach = None

    def __init__(self) -> None:
        self.known: tuple[Member, ...] = ()
        self.forgotten: list[str] = []
        self._number = 0

    def start_actor(self, *arguments: Any) -> "Actor":
        return self

    def call(self, method: str, *arguments: Any) -> Answered:
        if method == "watch":
            self._number, _, self.known = arguments
        elif method == "forget":
            self.forgotten.append(*arguments)
        return Answered(self._number)


def test_one_that_comes_again_does_not_go_on_as_what_it_was_when_it_left():
    actor: Any = Actor()
    watched = WatchedInstances(actor)
    watched.fleet = actor
    watched.add(SPEC)
    watched.step()
    ready = Member(ID, 7, ENDPOINT, state=MemberState.READY, capacity=SPEC.capacity, role=Role.PREFILL)
    watched.note([ready])
    watched.remove(ID)
    watched.step()
    watched.step()
    assert (actor.forgotten, ID in watched) == ([ID], False)
    watched.add(replace(SPEC, role=Role.DECODE))
    watched.note([replace(ready, state=MemberState.DRAINING)])  # an answer that Fleet gave before
    watched.step()
    assert actor.known == (), "its watcher would drain it, and Fleet would hear no word of it"
    again = replace(ready, incarnation=8, role=Role.DECODE)
    watched.note([again])
    watched.add(replace(SPEC, instance_id="10.0.0.2:8000"))
    watched.step()
    assert actor.known == (again,)
