"""What happens to a fleet, as people are told of it: one vocabulary for logs, `dualmap up`, `dualmap status`, the page
and metrics."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple

Fields = tuple[tuple[str, str | int | float], ...]


class EventKind(StrEnum):
    """Values are names in logs and labels of metrics: they stay as they are."""

    INSTANCE_STARTING = "instance_starting"
    INSTANCE_JOINED = "instance_joined"
    INSTANCE_SUSPECT = "instance_suspect"
    INSTANCE_SLOW = "instance_slow"
    INSTANCE_WELL = "instance_well"
    INSTANCE_LOST = "instance_lost"
    INSTANCE_RESTARTED = "instance_restarted"
    INSTANCE_BACK = "instance_back"
    INSTANCE_DRAINING = "instance_draining"
    INSTANCE_UNDRAINED = "instance_undrained"
    INSTANCE_LEFT = "instance_left"
    EPOCH_MOVED = "epoch_moved"
    CONFIG_APPLIED = "config_applied"
    CONFIG_REFUSED = "config_refused"
    SCALING_ACTED = "scaling_acted"
    GATEWAY_JOINED = "gateway_joined"
    GATEWAY_RESTARTED = "gateway_restarted"
    GATEWAY_LEAVING = "gateway_leaving"
    GATEWAY_LEFT = "gateway_left"
    GATEWAY_LOST = "gateway_lost"
    FLEET_RESTARTED = "fleet_restarted"


class About(NamedTuple):
    """what: when it is told. sentence: of an event, with its fields by name; `why` is its reason behind a colon, or
    nothing. bad: it is logged as a warning. fields: what an event of the kind tells beside pool, instance, gateway and
    reason."""

    what: str
    sentence: str
    bad: bool = False
    fields: tuple[str, ...] = ()


ABOUT: Mapping[EventKind, About] = {
    EventKind.INSTANCE_STARTING: About(
        "it is known and cannot be used yet: its server loads, or answers, but not as one that can be used",
        "{instance} is starting{why}",
    ),
    EventKind.INSTANCE_JOINED: About("it can be used for the first time", "{instance} is ready{why}"),
    EventKind.INSTANCE_SUSPECT: About(
        "a gateway leaves it alone for a moment: it refused a connection or the key, or broke off an answer",
        "{instance} is suspect to {gateway}{why}",
        bad=True,
    ),
    EventKind.INSTANCE_SLOW: About(
        "a gateway finds it silent, or slower than most of its pool", "{instance} is slow to {gateway}{why}", bad=True
    ),
    EventKind.INSTANCE_WELL: About(
        "it is neither suspect nor slow to that gateway any more", "{instance} does well again, says {gateway}"
    ),
    EventKind.INSTANCE_LOST: About(
        "it serves no more, or nobody answers where it should be. What ran there was continued elsewhere, ran again"
        " elsewhere, or failed: all gateways are asked for that first, for two seconds at the most",
        "{instance} is lost{why}; {carried}",
        bad=True,
        fields=("since", "continued", "run_elsewhere", "failed"),
    ),
    EventKind.INSTANCE_RESTARTED: About(
        "its server, one of ours, has ended and is started again",
        "{instance} is started again{why}{end}",
        fields=("exit_code", "log_line"),
    ),
    EventKind.INSTANCE_BACK: About("it can be used again", "{instance} is ready again{away}{why}", fields=("away_s",)),
    EventKind.INSTANCE_DRAINING: About("it gets no new requests", "{instance} drains"),
    EventKind.INSTANCE_UNDRAINED: About("it gets requests again", "{instance} drains no more"),
    EventKind.INSTANCE_LEFT: About("it was taken out, and Fleet has forgotten it", "{instance} has left"),
    EventKind.EPOCH_MOVED: About(
        "gateways use another membership from now on; several moves within a second are one",
        "epoch {from} -> {to}: {ready} of {members} instances ready",
        fields=("from", "to", "ready", "members"),
    ),
    EventKind.CONFIG_APPLIED: About(
        "a changed configuration was taken over; the reason says what changed, from what to what",
        "the configuration is taken over from {file}{why}",
        fields=("file",),
    ),
    EventKind.CONFIG_REFUSED: About(
        "a changed configuration was refused whole; the reason says what stands in the way",
        "the configuration stays as it is, {file} cannot be taken over{why}",
        bad=True,
        fields=("file",),
    ),
    EventKind.SCALING_ACTED: About(
        "a plan of the pool's Autoscaler starts or drains instances; its reason says why",
        "scaling{of_pool}: {act}{why}",
        fields=("role", "replicas", "start", "drain"),
    ),
    EventKind.GATEWAY_JOINED: About("Fleet hears of it for the first time", "{gateway} serves"),
    EventKind.GATEWAY_RESTARTED: About(
        "its process ended and another took its place; what it carried was cut off",
        "{gateway} was restarted",
        bad=True,
    ),
    EventKind.GATEWAY_LEAVING: About(
        "another gateway has taken its place: it takes no new connections, and lets its answers end",
        "{gateway} lets its answers end: another serves in its place",
    ),
    EventKind.GATEWAY_LEFT: About("it has ended, after it was leaving", "{gateway} has ended"),
    EventKind.GATEWAY_LOST: About("Fleet has not heard of it for three seconds", "{gateway} is gone{why}", bad=True),
    EventKind.FLEET_RESTARTED: About(
        "Fleet's process ended; the new one knows what instances and gateways have told it",
        "Fleet was restarted: it knows {members} instances",
        bad=True,
        fields=("members",),
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetEvent:
    """at: Unix seconds. gateway: that it is about, or that alone has seen it. reason: for people. fields: see About."""

    at: float
    kind: EventKind
    pool: str = ""
    instance_id: str = ""
    gateway: str = ""
    reason: str = ""
    fields: Fields = ()

    @property
    def bad(self) -> bool:
        return ABOUT[self.kind].bad

    def describe(self) -> dict[str, Any]:
        """As plain values, as status, page and logs have it."""
        about = {"pool": self.pool, "instance": self.instance_id, "gateway": self.gateway, "reason": self.reason}
        return {"at": self.at, "event": self.kind.value, **about, **dict(self.fields)}

    def sentence(self) -> str:
        """For people."""
        event = self.describe()
        about = {
            "why": f": {self.reason}" if self.reason else "",
            "carried": _carried(event),
            "end": _end(event),
            "away": f" after {event['away_s']:.1f} s" if event.get("away_s") else "",
            "of_pool": f" of {self.pool}" if self.pool else "",
            "act": _act(event),
        }
        return ABOUT[self.kind].sentence.format_map(about | event)


def _carried(event: Mapping[str, Any]) -> str:
    counts = [(name, event.get(name, 0)) for name in ("continued", "run_elsewhere", "failed")]
    total = sum(count for _, count in counts)
    if not total:
        return "it carried no request"
    told = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in counts)
    return f"it carried {total} request{'s' if total > 1 else ''}: {told}"


def _act(event: Mapping[str, Any]) -> str:
    role = f"{event['role']} " if event.get("role") else ""
    return role + (f"start {event.get('start')}" if event.get("start") else f"drain {event.get('drain')}")


def _end(event: Mapping[str, Any]) -> str:
    if "exit_code" not in event:
        return ""
    line = f"; its log ends with: {event['log_line']}" if event.get("log_line") else "; its log is empty"
    return f"; exit code {event['exit_code']}{line}"
