"""Which signals each instance gives, and how old they are: for operators. The core has its own account."""

from collections.abc import Sequence
from itertools import chain
from typing import Any

from dualmap.scheduler.core import Scheduler
from dualmap.scheduler.fleet.signals import InstanceSignals, KvEventState, LoadSample


class SignalAges:
    def __init__(self, schedulers: Sequence[Scheduler]) -> None:
        self._schedulers = schedulers
        self._loads: dict[str, LoadSample] = {}  # the last of each instance
        self._events: dict[str, tuple[float, KvEventState | None]] = {}  # when it was heard, and what

    def note(self, signals: InstanceSignals, now: float) -> None:
        if signals.load is not None:
            self._loads[signals.instance_id] = signals.load
        self._events[signals.instance_id] = (now, signals.kv_events)

    def ages(self, now: float) -> dict[str, dict[str, float]]:
        """Seconds since the last of each signal, by instance and signal: metrics, usage, kv_events. One that never came
        is left out."""
        return {
            instance_id: {name: signal["age_s"] for name, signal in signals.items() if signal["age_s"] is not None}
            for instance_id, signals in self.describe(now).items()
        }

    def describe(self, now: float) -> dict[str, dict[str, dict[str, Any]]]:
        """By instance and signal: its age and what it said, as plain values. Instances that the core knows, only."""
        described: dict[str, dict[str, dict[str, Any]]] = {}
        for instance_id, view in chain.from_iterable(s.instances.items() for s in self._schedulers):
            signals = described[instance_id] = {}
            load = self._loads.get(instance_id)
            reported_at = view.reported.reported_at
            if load is not None and reported_at is not None:
                signals["metrics"] = {
                    "age_s": now - reported_at,
                    "stale": view.reported.stale,
                    "running": load.running,
                    "waiting": load.waiting,
                    "kv_used": load.kv_used,
                    "preemptions": load.preemptions,
                }
            if view.service.usage_at is not None:
                signals["usage"] = {"age_s": now - view.service.usage_at}
            heard_at, events = self._events.get(instance_id, (now, None))
            if events is not None:
                signals["kv_events"] = {
                    "age_s": None if events.age_s is None else events.age_s + now - heard_at,
                    "exact": events.exact,
                    "batches": events.batches,
                    "gaps": events.gaps,
                    "resets": events.resets,
                    "error": events.error,
                    "cached_blocks": len(view.cache),
                }
        return described
