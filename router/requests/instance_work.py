"""When instances were last seen to work, so that a stream in which nothing comes is not taken for one that hangs: a
tool call may be sent only when it is complete."""

from collections.abc import Set
from math import inf

from dualmap.scheduler.fleet.signals import LoadSample

FRESH_S = 5.0  # what an instance said of itself longer ago says nothing of the moment


class _Seen:
    __slots__ = ("idle_since", "progress", "sampled_at", "worked_at")

    def __init__(self) -> None:
        self.worked_at = self.sampled_at = -inf
        self.progress = 0
        self.idle_since: float | None = None


class InstanceWork:
    """Times are those of the gateway's clock, seconds."""

    def __init__(self) -> None:
        self._seen: dict[str, _Seen] = {}

    def note_load(self, instance_id: str, load: LoadSample, now: float) -> None:
        """What the instance said of itself. now: when it was so."""
        seen = self._of(instance_id)
        works = seen.sampled_at > -inf and load.progress > seen.progress
        if works:
            seen.worked_at = now
        seen.progress = load.progress
        seen.sampled_at = now
        if works or load.running or load.waiting:
            seen.idle_since = None
        elif seen.idle_since is None:
            seen.idle_since = now

    def note_answer(self, instance_id: str, now: float) -> None:
        """Some of an answer has come from the instance."""
        self._of(instance_id).worked_at = now

    def worked_at(self, instance_id: str) -> float:
        """When its engine or one of its answers last went on; -inf where neither was seen."""
        return self._of(instance_id).worked_at

    def idle_s(self, instance_id: str, now: float) -> float:
        """For how long the instance has said that it runs nothing and nothing waits there; 0 where it does not."""
        seen = self._of(instance_id)
        if seen.idle_since is None or now - seen.sampled_at > FRESH_S:
            return 0.0
        return now - seen.idle_since

    def forget(self, kept: Set[str]) -> None:
        """Forget the instances that are not among those kept."""
        for instance_id in self._seen.keys() - kept:
            del self._seen[instance_id]

    def _of(self, instance_id: str) -> _Seen:
        seen = self._seen.get(instance_id)
        if seen is None:
            seen = self._seen[instance_id] = _Seen()
        return seen
