"""The page of what is told of a fleet, made from the vocabulary of events."""

from dualmap.scheduler.fleet.event_board import MOST_EVENTS
from dualmap.scheduler.fleet.fleet_event import ABOUT, EventKind
from dualmap.scheduler.fleet.member_events import CALM_S

HEAD = f"""# Events of the fleet
Every change of a fleet is told in these places, in the same words:

- a line in `fleet.log`, and in `gateway-N.log` of each gateway that was there, in the folder `log_dir/latest`: with
  `logs.format: json` an object whose `message` is for people and whose fields are those below
- a line on the standard output of `dualmap up`; with `logs.to: stdout` or `both` it is that of Fleet's process
- `dualmap status` (`--events` shows all that a gateway remembers, the last {MOST_EVENTS}), and `events` in its JSON,
  newest first
- the page `/ui`

Each gateway counts them: `dualmap_fleet_events_total{{kind}}`. Names and fields stay as they are. An event has `at`
(Unix seconds), `event`, and where there is something to say `instance`, `pool`, `gateway` and `reason`. Fleet keeps the
record; when it is restarted, the gateways tell it what they know. Of an instance that comes and goes a loss is told
once in {CALM_S:.0f} s at the most, and its return whenever its loss was. Without Ray, where there is no Fleet, a
gateway tells what it sees itself. `make reference` writes this page.

| event | warning | when | fields |
|---|---|---|---|
"""


def events_page() -> str:
    rows = []
    for kind in EventKind:
        about = ABOUT[kind]
        fields = ", ".join(f"`{name}`" for name in about.fields)
        rows.append(f"| `{kind}` | {'yes' if about.bad else ''} | {about.what} | {fields} |")
    return HEAD + "\n".join(rows) + "\n" + TAIL


TAIL = """
`since`: when the instance came into the state, in Unix seconds. `continued`, `run_elsewhere`, `failed`: requests that
the instance had when it was lost: streams that go on elsewhere, requests that run again elsewhere since their clients
had nothing of an answer, and those that ended with an error. `exit_code`, `log_line`: of the server that ended, and the
last line of its log. `away_s`: seconds from the loss to the return. `from`, `to`, `ready`, `members`: epochs, and how
many instances of how many are ready. `replicas`, `start`, `drain`: how many are wanted, how many are started, and which
are drained.
"""
