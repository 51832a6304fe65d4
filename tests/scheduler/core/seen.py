"""What commands say, in short."""

from collections.abc import Iterable

from dualmap.scheduler.commands import Command, Dispatch


def dispatched(commands: Iterable[Command]) -> list[tuple[str, int, str]]:
    return [(c.request_id, c.attempt, c.instance_id) for c in commands if isinstance(c, Dispatch)]


def ids(commands: Iterable[Command]) -> list[str]:
    return [c.request_id for c in commands if isinstance(c, Dispatch)]
