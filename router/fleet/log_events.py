"""What happens to the fleet, in the log of a process: a line each, whose message is for people and whose fields have
names that stay as they are."""

import logging
from collections.abc import Iterable

from dualmap.scheduler.fleet.fleet_event import FleetEvent

logger = logging.getLogger(__name__)


def log_events(events: Iterable[FleetEvent]) -> None:
    for event in events:
        fields = {name: value for name, value in event.describe().items() if value != ""}
        logger.log(logging.WARNING if event.bad else logging.INFO, event.sentence(), extra=fields)
