"""The pods of Kubernetes that are instances: a list of them, then what changes. While the API server is away, what was
found last stays."""

import asyncio
import json
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
from kr8s.asyncio import api as connect

from dualmap.router.config.pool_settings import KubernetesDiscovery
from dualmap.scheduler.fleet.endpoint import host_port

FIRST_RETRY_S = 1.0
MAX_RETRY_S = 30.0
CONNECT_S = 10.0  # until the server has told its version
WATCH_S = 240  # the server ends a watch after that, and another one begins
TIMEOUT = httpx.Timeout(10.0, read=WATCH_S + 30.0)  # a connection that is dead is noticed
GONE = 410
SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")  # of the pod we run in


class PodWatch:
    """found: instances by IP:PORT, whether they leave; None until the first list has come. say: is told when the API
    server goes away, and when it is back. No fault of the server, or of ours with what it says, ends the watch."""

    def __init__(self, settings: KubernetesDiscovery, say: Callable[[str], None]) -> None:
        self.found: Mapping[str, bool] | None = None
        self._settings = settings
        self._say = say
        self._pods: dict[str, tuple[str, bool]] = {}  # by uid: address, and whether it leaves
        self._away = False
        self._loop = asyncio.new_event_loop()
        self._task: asyncio.Task[None] | None = None
        self._thread = threading.Thread(target=self._run, name="kubernetes-discovery", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        with suppress(RuntimeError):  # it has ended by itself
            self._loop.call_soon_threadsafe(lambda: self._task and self._task.cancel())
        self._thread.join(timeout=5.0)

    def _run(self) -> None:
        self._task = self._loop.create_task(self._follow())
        with suppress(asyncio.CancelledError):
            self._loop.run_until_complete(self._task)
        self._loop.close()

    async def _follow(self) -> None:
        retry_s = FIRST_RETRY_S
        while True:
            try:
                async with asyncio.timeout(CONNECT_S):
                    client = await self._connect()
                version = await self._list(client)
                self._note_back()
                retry_s = FIRST_RETRY_S
                await self._watch(client, version)
                await asyncio.sleep(FIRST_RETRY_S)  # a server that ends each watch at once is not asked without a pause
            except Exception as error:  # httpx and kr8s have many; pods that nobody follows would be worse than any
                self._note_away(error)
                await asyncio.sleep(retry_s)
                retry_s = min(MAX_RETRY_S, retry_s * 2.0)

    async def _connect(self) -> Any:
        """With the credentials of this moment: tokens of service accounts are renewed."""
        settings = self._settings
        client = await connect(
            kubeconfig=str(settings.kubeconfig) if settings.kubeconfig else None,
            serviceaccount=str(SERVICE_ACCOUNT),
            namespace=settings.namespace,
        )
        if settings.namespace is None and not client.auth.active_context:  # there kr8s takes `default`
            client.auth.namespace = (SERVICE_ACCOUNT / "namespace").read_text().strip()
        return client

    async def _list(self, client: Any) -> str:
        """Returns the version from which on to watch."""
        async with client.call_api(
            "GET", namespace=client.namespace, url="pods", params=self._params(), timeout=TIMEOUT
        ) as answer:
            pods = answer.json()
        self._pods = {}
        for pod in pods["items"]:
            self._put(pod)
        self._publish()
        return str(pods["metadata"]["resourceVersion"])

    async def _watch(self, client: Any, version: str) -> None:
        """Until the server ends it; what happened in between is in the next list."""
        params = self._params() | {"watch": "1", "resourceVersion": version, "timeoutSeconds": str(WATCH_S)}
        async with client.call_api(
            "GET", namespace=client.namespace, url="pods", params=params, stream=True, timeout=TIMEOUT
        ) as answer:
            async for line in answer.aiter_lines():
                event = json.loads(line)
                pod = event["object"]
                if event["type"] == "ERROR":
                    if pod.get("code") != GONE:
                        raise ValueError(pod.get("message", "the watch has failed"))
                    return
                if event["type"] == "DELETED":
                    self._pods.pop(pod["metadata"]["uid"], None)
                else:
                    self._put(pod)
                self._publish()

    def _params(self) -> dict[str, str]:
        return {"labelSelector": self._settings.label_selector}

    def _put(self, pod: Mapping[str, Any]) -> None:
        """A pod is an instance while it runs at an address; whether it is well is for its watcher to find out."""
        uid, status = pod["metadata"]["uid"], pod.get("status", {})
        ip = status.get("podIP")
        if not ip or status.get("phase") != "Running":
            self._pods.pop(uid, None)
            return
        self._pods[uid] = (host_port(ip, self._settings.port), "deletionTimestamp" in pod["metadata"])

    def _publish(self) -> None:
        """Where two pods have one address, for a moment, the one that stays counts."""
        found: dict[str, bool] = {}
        for address, leaves in self._pods.values():
            found[address] = leaves and found.get(address, True)
        self.found = found

    def _note_away(self, error: Exception) -> None:
        if not self._away:
            self._away = True
            self._say(f"Kubernetes cannot be asked for pods, those known stay: {str(error) or repr(error)}")

    def _note_back(self) -> None:
        if self._away:
            self._away = False
            self._say("Kubernetes tells of its pods again")
