"""The pods of Kubernetes that are instances: a list of them, then what changes. While the API server is away, what was
found last stays."""

import asyncio
import json
import random
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
from kr8s import ServerError
from kr8s.asyncio import api as connect

from dualmap.router.config.pool_settings import KubernetesDiscovery
from dualmap.router.deployment.pod_table import PodLabels, PodTable

FIRST_RETRY_S = 1.0
MAX_RETRY_S = 30.0
MAX_RETRY_AFTER_S = 300.0  # which a server may ask for
CONNECT_S = 10.0  # until the server has told its version
PAGE_PODS = 500  # of a list
WATCH_S = 240  # the server ends a watch after that, and another one goes on from there
LIST_TIMEOUT = httpx.Timeout(10.0, read=90.0)  # the server itself gives up after a minute
TIMEOUT = httpx.Timeout(10.0, read=WATCH_S + 30.0)  # a connection that is dead is noticed
TOO_MANY_REQUESTS = 429
GONE = 410  # what happened since the version that was asked for is not known any more
SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")  # of the pod we run in


class PodWatch:
    """found: instances by IP:PORT, whether they leave; None until the first list has come. labels: of those that have
    any, at least as new as `found`. say: is told when the API server goes away, and when it is back. No fault of the
    server, or of ours with what it says, ends the watch."""

    def __init__(self, settings: KubernetesDiscovery, say: Callable[[str], None]) -> None:
        self.found: Mapping[str, bool] | None = None
        self.labels: Mapping[str, PodLabels] = {}
        self._settings = settings
        self._say = say
        self._pods = PodTable(settings.port, settings.role_label, settings.revision_label)
        self._version: str | None = None  # from which on to watch; None: they are to be listed
        self._away = False
        self._retry_s = FIRST_RETRY_S
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
        while True:
            begun = self._loop.time()
            try:
                async with asyncio.timeout(CONNECT_S):
                    client = await self._connect()
                if self._version is None:
                    await self._list(client)
                await self._watch(client)
                # A server that ends each watch at once is not asked without a pause.
                await asyncio.sleep(begun + FIRST_RETRY_S - self._loop.time())
            except Exception as error:  # httpx and kr8s have many; pods that nobody follows would be worse than any
                await asyncio.sleep(self._pause_after(error))

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

    async def _list(self, client: Any) -> None:
        """All pods, page by page; they are those of one moment."""
        params = self._params() | {"limit": str(PAGE_PODS)}
        pods: list[Mapping[str, Any]] = []
        while True:
            async with client.call_api(
                "GET", namespace=client.namespace, url="pods", params=params, timeout=LIST_TIMEOUT
            ) as answer:
                page = answer.json()
            pods += page["items"]
            rest = page["metadata"].get("continue")
            if not rest:
                break
            params["continue"] = rest
        self._pods.replace(pods)
        self._tell()
        self._version = str(page["metadata"]["resourceVersion"])

    async def _watch(self, client: Any) -> None:
        """Until the server ends it, or the connection is lost: the next one goes on from there."""
        params = self._params() | {
            "watch": "1",
            "allowWatchBookmarks": "true",  # without them the version of a pool that rests is soon too old
            "resourceVersion": str(self._version),
            "timeoutSeconds": str(WATCH_S),
        }
        async with client.call_api(
            "GET", namespace=client.namespace, url="pods", params=params, stream=True, timeout=TIMEOUT
        ) as answer:
            self._note_back()
            self._retry_s = FIRST_RETRY_S
            with suppress(httpx.TransportError):
                async for line in answer.aiter_lines():
                    if not self._take(json.loads(line)):
                        return

    def _take(self, event: Mapping[str, Any]) -> bool:
        """Returns whether the watch goes on. Raises ValueError where the server says that it has failed."""
        about = event["object"]
        match event["type"]:
            case "ERROR":
                self._version = None
                if about.get("code") != GONE:
                    raise ValueError(about.get("message", "the watch has failed"))
                return False
            case "BOOKMARK":
                pass
            case "DELETED":
                self._pods.remove(about)
            case _:
                self._pods.put(about)
        self._version = str(about["metadata"]["resourceVersion"])
        self._tell()
        return True

    def _tell(self) -> None:
        self.labels = self._pods.labels()
        self.found = self._pods.found()

    def _params(self) -> dict[str, str]:
        return {"labelSelector": self._settings.label_selector}

    def _pause_after(self, error: Exception) -> float:
        """Seconds: longer with each failure, as long as the server asks for, and not for all gateways the same."""
        response = error.response if isinstance(error, ServerError) else None
        status = None if response is None else response.status_code
        if status is not None and status != TOO_MANY_REQUESTS:
            self._version = None
        if status != GONE:
            self._note_away(error)
        pause_s, self._retry_s = self._retry_s, min(MAX_RETRY_S, self._retry_s * 2.0)
        return max(pause_s * random.uniform(1.0, 1.5), _retry_after_s(response))

    def _note_away(self, error: Exception) -> None:
        if not self._away:
            self._away = True
            self._say(f"Kubernetes cannot be asked for pods, those known stay: {str(error) or repr(error)}")

    def _note_back(self) -> None:
        if self._away:
            self._away = False
            self._say("Kubernetes tells of its pods again")


def _retry_after_s(response: httpx.Response | None) -> float:
    """What the server asks for, in seconds; 0 where it asks for nothing."""
    asked = "" if response is None else response.headers.get("retry-after", "")
    return min(MAX_RETRY_AFTER_S, float(asked)) if asked.isdigit() else 0.0
