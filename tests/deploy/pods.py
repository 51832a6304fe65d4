"""Pods of rendered manifests as processes of this machine: their commands, arguments and environment are those of the
manifest; what differs is said in one table, since hosts share a machine here."""

import base64
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.conftest import WAIT_S, ProcessFamily

BIN = Path(sys.executable).parent


class Pod:
    """template: of a pod. name: of the pod. here: what stands in the manifest -> what this machine has in its place.
    output: a file for each container."""

    def __init__(
        self,
        template: Mapping[str, Any],
        name: str,
        found: list[dict[str, Any]],
        here: Mapping[str, str],
        folder: Path,
        ray_folder: str,
        more: tuple[str, ...] = (),
    ) -> None:
        """found: all manifests. ray_folder: a short path, in which sockets fit. more: arguments of `dualmap`, after
        those of the manifest."""
        self.family = ProcessFamily()
        self.grace_s = template["spec"]["terminationGracePeriodSeconds"]
        self.name = name
        self._containers = template["spec"]["containers"]
        self._found = found
        self._here = here
        self._folder = folder
        self._ray_folder = ray_folder
        self._more = more
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.start()

    def start(self) -> None:
        for container in self._containers:
            self.start_container(container["name"])

    def start_container(self, name: str) -> None:
        (container,) = (c for c in self._containers if c["name"] == name)
        program = container.get("command", ["dualmap"])  # else the image's entry point
        environment = {entry["name"]: self._value(entry) for entry in container["env"]}
        arguments = [self._as_here(_expanded(text, environment)) for text in container["args"]]
        command = [str(BIN / program[0]), *program[1:], *arguments, *(self._more if program == ["dualmap"] else ())]
        with self.output(name).open("ab") as output:
            self.processes[name] = subprocess.Popen(
                command,
                stdout=output,
                stderr=output,
                cwd=self._folder,
                env={**self.family.environment, **environment, "RAY_TMPDIR": self._ray_folder},
                start_new_session=True,
            )

    def output(self, container: str) -> Path:
        return self._folder / f"{self.name}.{container}.out"

    def said(self, container: str) -> str:
        return self.output(container).read_text()

    def tend(self) -> None:
        """As kubelet does: a container that has ended is started again."""
        for name, process in self.processes.items():
            if process.poll() is not None:
                self.start_container(name)

    def kill(self) -> None:
        """As a host that fails."""
        self.family.kill()
        for process in self.processes.values():
            process.wait(timeout=WAIT_S)

    def end(self) -> list[int]:
        """As kubelet does: preStop, while connections still come, then SIGTERM to each container's process.
        Their exit codes, once they have ended within the grace period."""
        for container in self._containers:
            if hook := container.get("lifecycle", {}).get("preStop"):
                subprocess.run(hook["exec"]["command"], check=True, timeout=self.grace_s)
        for process in self.processes.values():
            process.send_signal(signal.SIGTERM)
        codes = [process.wait(timeout=self.grace_s) for process in self.processes.values()]
        self.family.kill()
        return codes

    def _as_here(self, text: str) -> str:
        for there, here in self._here.items():
            text = text.replace(there, here)
        return text

    def _value(self, entry: Mapping[str, Any]) -> str:
        source = entry.get("valueFrom")
        if source is None:
            return str(entry["value"])
        if "fieldRef" in source:
            assert source["fieldRef"] == {"fieldPath": "metadata.name"}
            return self.name
        asked = source["secretKeyRef"]
        (secret,) = (m for m in self._found if (m["kind"], m["metadata"]["name"]) == ("Secret", asked["name"]))
        return base64.b64decode(secret["data"][asked["key"]]).decode()


def _expanded(text: str, environment: Mapping[str, str]) -> str:
    """As kubelet does with $(NAME)."""
    for name, value in environment.items():
        text = text.replace(f"$({name})", value)
    return text
