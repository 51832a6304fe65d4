"""Where events go: a pool's scheduler, or what stands in its place and keeps a journal of them."""

from typing import Protocol

from dualmap.scheduler.commands import Command
from dualmap.scheduler.events import Event


class Core(Protocol):
    def handle(self, event: Event, now: float) -> list[Command]: ...
