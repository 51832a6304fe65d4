"""A release of the chart on this machine: pods are processes, servers are simulated, Kubernetes' API is a fake."""

import json
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import yaml

from dualmap.router.access.api_keys import hash_key
from tests.conftest import WAIT_S, ProcessFamily, await_that
from tests.deploy.chart_variants import one
from tests.deploy.helm_chart import manifests
from tests.deploy.pods import Pod
from tests.deployment import free_port
from tests.router.fake_kubernetes import NAMESPACE, FakeKubernetes

HOSTS = ("127.0.0.2", "127.0.0.3")  # of the pods that are instances
KEY, LIMITED = "dm-of-most", "dm-of-one-with-a-limit"
PER_MINUTE = 60
HEAD, GATEWAY = "dualmap-head", "dualmap"  # Deployments


class Release:
    """values: of the chart. What a cluster has in several places, this machine has in one: addresses, ports and paths
    are replaced, and nothing else. All ends with the stack."""

    def __init__(self, values: dict[str, Any], folder: Path, stack: ExitStack) -> None:
        self.found = manifests(values)
        self.pods: list[Pod] = []
        self._folder = folder
        self._stack = stack
        self._ray_folder = tempfile.mkdtemp(prefix="dm-")
        stack.callback(shutil.rmtree, self._ray_folder, ignore_errors=True)
        gcs, client, port = free_port(), free_port(), free_port()
        self._here = {
            "ray://dualmap-head:10001": f"ray://127.0.0.1:{client}",
            "--port=6379": f"--port={gcs}",
            "127.0.0.1:6379": f"127.0.0.1:{gcs}",
            "--ray-client-server-port=10001": f"--ray-client-server-port={client}",
            "/etc/dualmap/dualmap.yaml": str(folder / "dualmap.yaml"),
        }
        self._start_servers(port)
        self._write_config(port)

    def pod(self, deployment: str, name: str, *more: str) -> Pod:
        """Starts it. more: arguments of `dualmap`, after those of the manifest."""
        template = one(self.found, "Deployment", deployment)["spec"]["template"]
        pod = Pod(template, name, self.found, self._here, self._folder, self._ray_folder, more)
        self._stack.callback(pod.kill)
        self.pods.append(pod)
        return pod

    def gone(self, pod: Pod) -> None:
        """It is not tended any more."""
        if pod in self.pods:
            self.pods.remove(pod)

    def wait(self, condition: Callable[[], Any], what: str) -> None:
        """Containers that end meanwhile are started again."""

        def tended() -> Any:
            for pod in self.pods:
                pod.tend()
            return condition()

        await_that(tended, what)

    def _start_servers(self, port: int) -> None:
        family = ProcessFamily()
        self._stack.callback(family.kill)
        self._kubernetes = FakeKubernetes()
        self._stack.callback(self._kubernetes.close)
        for number, host in enumerate(HOSTS):
            command = [sys.executable, "-m", "dualmap", "sim-instance", "--host", host, "--port", str(port)]
            subprocess.Popen(command, env=family.environment, start_new_session=True)
            self._kubernetes.put(f"vllm-{number}", host)

    def _write_config(self, port: int) -> None:
        config = yaml.safe_load(one(self.found, "ConfigMap")["data"]["dualmap.yaml"])
        config["gateway"] |= {"host": "127.0.0.1", "admin_host": "127.0.0.1"}
        if "api_keys_file" in config["gateway"]:
            limited = {"sha256": hash_key(LIMITED.encode()), "requests_per_minute": PER_MINUTE}
            path = self._folder / "keys.yaml"
            path.write_text(yaml.safe_dump({"keys": [{"sha256": hash_key(KEY.encode())}, limited]}))
            config["gateway"]["api_keys_file"] = str(path)
        kubeconfig = self._kubernetes.write_kubeconfig(self._folder / "kubeconfig")
        config["discovery"]["kubernetes"] |= {"kubeconfig": str(kubeconfig), "namespace": NAMESPACE, "port": port}
        config["log_dir"] = str(self._folder / "logs")
        (self._folder / "dualmap.yaml").write_text(yaml.safe_dump(config))


class GatewayPod:
    """port, admin_port: of this one on this machine. port_flag: says the first."""

    def __init__(self, release: Release, name: str, port_flag: str = "--port") -> None:
        self.port = free_port(2)
        self.admin_port = self.port + 1
        self.pod = release.pod(GATEWAY, name, port_flag, str(self.port), "--admin-port", str(self.admin_port))

    @property
    def gateway_id(self) -> str:
        return f"{self.pod.name}-0"

    def said(self) -> list[str]:
        return self.pod.said("gateway").splitlines()

    def status(self) -> dict[str, Any]:
        """Raises OSError."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.admin_port}/admin/status", timeout=WAIT_S) as answer:
            found: dict[str, Any] = json.load(answer)
        return found

    def members(self) -> dict[str, dict[str, Any]]:
        return {member["instance_id"]: member for member in self.status()["members"]}

    def knows(self, *gateways: "GatewayPod") -> bool:
        """Whether it knows that these serve and no others, and that all instances are ready."""
        try:
            status = self.status()
        except OSError:
            return False
        ready = [member for member in status["members"] if member["state"] == "ready"]
        serving = {gateway["gateway_id"] for gateway in status["gateways"]}
        return len(ready) == len(HOSTS) and serving == {gateway.gateway_id for gateway in gateways}


def all_know(*gateways: GatewayPod) -> bool:
    return all(gateway.knows(*gateways) for gateway in gateways)
