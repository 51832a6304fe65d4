"""What `dualmap up` says of what happens, each thing once."""

from dualmap.router.deployment.tell_events import TellEvents
from dualmap.scheduler.fleet.event_board import EventNews
from dualmap.scheduler.fleet.fleet_event import EventKind, FleetEvent

LATER = 4e9  # Unix seconds


def event(kind: EventKind, at: float, instance_id: str = "a", **more: object) -> FleetEvent:
    return FleetEvent(at=at, kind=kind, instance_id=instance_id, fields=tuple(more.items()))


MOVED = event(EventKind.EPOCH_MOVED, LATER, "", **{"from": 0, "to": 1, "ready": 1, "members": 1})
CONFIG = FleetEvent(at=LATER, kind=EventKind.CONFIG_REFUSED, reason="nonsense", fields=(("file", "dualmap.yaml"),))


def test_what_was_said_at_the_start_is_not_said_again_and_what_came_of_it_since_is():
    lines: list[str] = []
    told = TellEvents(lines.append)
    told.instances_known()
    joined = event(EventKind.INSTANCE_JOINED, 1.0)
    serves = FleetEvent(at=LATER, kind=EventKind.GATEWAY_JOINED, gateway="gateway-0")
    told.begin_with(EventNews(4, (joined, serves, MOVED, event(EventKind.INSTANCE_JOINED, LATER, "b"))))
    assert lines == ["b is ready"]
    told.hear(EventNews(5, (event(EventKind.INSTANCE_DRAINING, LATER, "b"),)))
    assert lines[1:] == ["b drains"]


def test_what_another_fleet_tells_anew_is_not_said_again():
    lines: list[str] = []
    told = TellEvents(lines.append)
    told.begin_with(None)
    told.hear(EventNews(1, (MOVED,)))
    told.hear(EventNews(900, (MOVED, event(EventKind.INSTANCE_DRAINING, LATER))))
    told.hear(None)
    assert lines == ["epoch 0 -> 1: 1 of 1 instances ready", "a drains"]


def test_what_happens_here_is_said_at_once_and_not_when_fleet_tells_it():
    lines: list[str] = []
    told = TellEvents(lines.append)
    told.tell(CONFIG)
    told.hear(EventNews(1, (CONFIG,)))
    assert lines == ["the configuration stays as it is, dualmap.yaml cannot be taken over: nonsense"]
