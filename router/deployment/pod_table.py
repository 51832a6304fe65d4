"""Pods as the API server tells of them, and which of them are instances."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from dualmap.scheduler.fleet.endpoint import host_port
from dualmap.scheduler.role import Role


class PodLabels(NamedTuple):
    """What they say of the server: which parts of requests it takes, and whose prompts it can read."""

    role: Role = Role.BOTH
    revision: str = ""


NO_LABELS = PodLabels()


@dataclass(frozen=True, slots=True)
class Pod:
    """One that runs at an address. ends: it was told to end, or will be. ready: as Kubernetes sees it; None where it
    does not say. was_ready: it has been so."""

    address: str
    ends: bool
    ready: bool | None
    was_ready: bool
    labels: PodLabels = NO_LABELS


class PodTable:
    """A pod is an instance while it runs at an address. Whether one that starts is well is for its watcher to find
    out; one that Kubernetes calls ready no more is about to go."""

    def __init__(self, port: int, role_label: str = "", revision_label: str = "") -> None:
        """port: on which the pods listen. The labels are named that PodLabels come from."""
        self._port = port
        self._role_label = role_label
        self._revision_label = revision_label
        self._pods: dict[str, Pod] = {}  # by uid

    def replace(self, pods: Iterable[Mapping[str, Any]]) -> None:
        """These are all there are."""
        listed = {pod["metadata"]["uid"]: pod for pod in pods}
        self._pods = {uid: pod for uid, pod in self._pods.items() if uid in listed}
        for pod in listed.values():
            self.put(pod)

    def put(self, pod: Mapping[str, Any]) -> None:
        """It is new, or has changed."""
        metadata, status = pod["metadata"], pod.get("status", {})
        uid, ip = metadata["uid"], status.get("podIP")
        if not ip or status.get("phase") != "Running":
            self._pods.pop(uid, None)
            return
        conditions = {condition["type"]: condition["status"] == "True" for condition in status.get("conditions") or ()}
        ready, known = conditions.get("Ready"), self._pods.get(uid)
        self._pods[uid] = Pod(
            address=host_port(ip, self._port),
            ends="deletionTimestamp" in metadata or conditions.get("DisruptionTarget", False),
            ready=ready,
            was_ready=ready is True or (known is not None and known.was_ready),
            labels=self._labels(metadata.get("labels") or {}),
        )

    def remove(self, pod: Mapping[str, Any]) -> None:
        self._pods.pop(pod["metadata"]["uid"], None)

    def found(self) -> dict[str, bool]:
        """Instances by IP:PORT, whether they leave. Where no pod is ready, none leaves for that: a probe that fails
        everywhere is no reason to serve nobody. Where two pods have one address, for a moment, the one that stays
        counts."""
        some_ready = any(pod.ready is not False and not pod.ends for pod in self._pods.values())
        found: dict[str, bool] = {}
        for pod in self._pods.values():
            unready = pod.was_ready and not pod.ready and some_ready
            found[pod.address] = (pod.ends or unready) and found.get(pod.address, True)
        return found

    def labels(self) -> dict[str, PodLabels]:
        """Of those that have any, by IP:PORT."""
        return {pod.address: pod.labels for pod in self._pods.values() if pod.labels != NO_LABELS and not pod.ends}

    def _labels(self, labels: Mapping[str, str]) -> PodLabels:
        role = labels.get(self._role_label)
        known = Role(role) if role in (Role.PREFILL, Role.DECODE) else Role.BOTH
        return PodLabels(known, labels.get(self._revision_label, ""))
