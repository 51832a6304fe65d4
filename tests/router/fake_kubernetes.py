"""Kubernetes' API server as far as discovery needs it: pods of one namespace, listed and watched over real HTTP, as
https://kubernetes.io/docs/reference/using-api/api-concepts documents it: lists in pages, watches from a version on,
bookmarks for those that ask, 410 for versions and pages that are forgotten."""

import json
import ssl
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

NAMESPACE = "serving"
PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"


@dataclass(frozen=True)
class Refusal:
    """What requests for pods are answered with. text: of its body, where that is not a Status."""

    status: int
    retry_after_s: int | None = None
    text: str = ""


class FakeKubernetes:
    """status: of its answers, where it is not 200; watch_status: of watches; refusal: the same, for all. silent: it
    takes requests and says nothing. slow: it takes them for lists, and answers these when it is not slow any more.
    token: the only one it lets in. lists, pages: how often it was asked for a list, and for a page of one.
    watched_from: the version of each watch."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.status = self.watch_status = 200
        self.refusal: Refusal | None = None
        self.silent = self.slow = False
        self.token: str | None = None
        self.lists = self.pages = self.requests = 0
        self.forget_pages_after = 0  # forgets all pages once, when so many were given
        self.watched_from: list[int] = []
        self.selectors: set[str] = set()
        self.tokens: set[str] = set()
        self._pods: dict[str, dict[str, Any]] = {}
        self._version = 1
        self._oldest = 1  # version from which on it knows what happened
        self._events: list[tuple[int, dict[str, Any]]] = []
        self._pages: dict[str, tuple[int, list[dict[str, Any]]]] = {}  # by token: version, and the rest of the list
        self._changed = threading.Condition()
        self._breaks = 0
        self._cut = False  # the last break was one of the connection
        handler = type("Handler", (_Handler,), {"fake": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        if tls is not None:
            # The handshake is the first thing that is read: it holds up nobody, whoever connects and says nothing.
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        return self._server.server_address[1]

    @property
    def watches(self) -> int:
        return len(self.watched_from)

    @property
    def version(self) -> int:
        return self._version

    def write_kubeconfig(self, path: Path) -> Path:
        url = f"http://127.0.0.1:{self.port}"
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "fake",
            "contexts": [{"name": "fake", "context": {"cluster": "fake", "user": "fake", "namespace": NAMESPACE}}],
            "clusters": [{"name": "fake", "cluster": {"server": url}}],
            "users": [{"name": "fake", "user": {"token": "a-token"}}],
        }
        path.write_text(json.dumps(config))
        return path

    def put(
        self,
        name: str,
        ip: str | None = None,
        phase: str = "Running",
        leaving: bool = False,
        conditions: Mapping[str, bool] | None = None,
    ) -> None:
        metadata: dict[str, Any] = {"name": name, "namespace": NAMESPACE, "uid": f"uid-{name}"}
        if leaving:
            metadata["deletionTimestamp"] = "2026-01-01T00:00:00Z"
        status: dict[str, Any] = {"phase": phase} | ({"podIP": ip} if ip else {})
        if conditions is not None:
            status["conditions"] = [{"type": kind, "status": str(holds)} for kind, holds in conditions.items()]
        known = name in self._pods
        self._happen("MODIFIED" if known else "ADDED", {"kind": "Pod", "metadata": metadata, "status": status})

    def delete(self, name: str) -> None:
        self._happen("DELETED", self._pods[name])

    def happen_elsewhere(self) -> None:
        """Something that no watch of these pods is told, except by a bookmark."""
        with self._changed:
            self._version += 1

    def bookmark(self) -> None:
        with self._changed:
            metadata = {"resourceVersion": str(self._version), "creationTimestamp": None}
            self._events.append((self._version, {"type": "BOOKMARK", "object": {"kind": "Pod", "metadata": metadata}}))
            self._changed.notify_all()

    def forget_history(self) -> None:
        """Versions before this one are not known any more, nor pages of lists (compaction)."""
        with self._changed:
            self._oldest = self._version
            self._pages.clear()

    def break_watches(self, error: Mapping[str, Any] | None = None, cut: bool = False) -> None:
        """With an event that says so, or without a word. cut: the connection is lost, with half an answer."""
        with self._changed:
            if error is not None:
                self._events.append((self._version, {"type": "ERROR", "object": {"kind": "Status", **error}}))
            self._breaks += 1
            self._cut = cut
            self._changed.notify_all()

    def wait_until(self, condition: Callable[[], bool]) -> None:
        with self._changed:
            self._changed.wait_for(condition)

    def answer_lists(self) -> None:
        """It is not slow any more."""
        with self._changed:
            self.slow = False
            self._changed.notify_all()

    def close(self) -> None:
        self.silent = self.slow = False
        self.break_watches()
        self._server.shutdown()
        self._server.server_close()

    def _happen(self, kind: str, pod: dict[str, Any]) -> None:
        with self._changed:
            self._version += 1
            pod["metadata"]["resourceVersion"] = str(self._version)
            if kind == "DELETED":
                del self._pods[pod["metadata"]["name"]]
            else:
                self._pods[pod["metadata"]["name"]] = pod
            self._events.append((self._version, {"type": kind, "object": pod}))
            self._changed.notify_all()

    def list(self, limit: int, token: str) -> dict[str, Any] | None:
        """A page; None where its token is too old. limit: 0: all at once."""
        with self._changed:
            if self.forget_pages_after and self.pages == self.forget_pages_after:
                self.forget_pages_after = 0
                self._pages.clear()
            self.pages += 1
            if token and token not in self._pages:
                return None
            self.lists += not token
            version, rest = self._pages.pop(token) if token else (self._version, list(self._pods.values()))
            page, rest = (rest[:limit], rest[limit:]) if limit else (rest, [])
            metadata: dict[str, Any] = {"resourceVersion": str(version)}
            if rest:
                metadata["continue"] = f"page-{self.pages}"
                self._pages[metadata["continue"]] = version, rest
            return {"kind": "PodList", "apiVersion": "v1", "metadata": metadata, "items": page}

    def knows(self, version: int) -> bool:
        return version >= self._oldest

    def watch(self, version: int, bookmarks: bool, send: Callable[[bytes], None]) -> bool:
        """Returns whether the answer is whole."""
        with self._changed:
            self.watched_from.append(version)
            sent, breaks = len([1 for at, _ in self._events if at <= version]), self._breaks
            while True:
                for _, event in self._events[sent:]:
                    if bookmarks or event["type"] != "BOOKMARK":
                        send(json.dumps(event).encode() + b"\n")
                sent = len(self._events)
                if self._breaks != breaks:
                    return not self._cut
                self._changed.wait()


class _Handler(BaseHTTPRequestHandler):
    fake: FakeKubernetes
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        fake, url = self.fake, urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        authorization = self.headers.get("authorization", "")
        fake.tokens.add(authorization)
        if fake.silent:
            fake.wait_until(lambda: not fake.silent)
            self.close_connection = True
        elif fake.token is not None and authorization != f"Bearer {fake.token}":
            self._refuse(401, "Unauthorized")
        elif url.path.rstrip("/") == "/version":
            self._send_json({"major": "1", "minor": "35", "gitVersion": "v1.35.0"})
        else:
            fake.requests += 1
            self._answer(url.path, query)

    def _answer(self, path: str, query: Mapping[str, str]) -> None:
        fake = self.fake
        if fake.refusal is not None:
            self._send_refusal(fake.refusal)
        elif fake.status != 200:
            self._refuse(fake.status, "not now")
        elif path != PODS:
            self._refuse(404, f"no {path}")
        elif not query.get("watch"):
            self._list(query)
        elif fake.watch_status != 200:
            self._refuse(fake.watch_status, "not now")
        elif not fake.knows(int(query["resourceVersion"])):
            self._refuse(410, "too old resource version")
        else:
            self._watch(query)

    def _list(self, query: Mapping[str, str]) -> None:
        fake = self.fake
        fake.selectors.add(query.get("labelSelector", ""))
        fake.wait_until(lambda: not fake.slow)
        page = fake.list(int(query.get("limit", "0")), query.get("continue", ""))
        if page is None:
            self._refuse(410, "The provided continue parameter is too old")
        else:
            self._send_json(page)

    def _watch(self, query: Mapping[str, str]) -> None:
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        try:
            bookmarks = query.get("allowWatchBookmarks") == "true"
            if self.fake.watch(int(query["resourceVersion"]), bookmarks, self._send_chunk):
                self._send_chunk(b"")
            else:
                self.close_connection = True
        except OSError:
            self.close_connection = True

    def _send_chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))
        self.wfile.flush()

    def _refuse(self, status: int, message: str) -> None:
        self._send_json({"kind": "Status", "message": message, "code": status}, status)

    def _send_refusal(self, refusal: Refusal) -> None:
        headers = {} if refusal.retry_after_s is None else {"retry-after": str(refusal.retry_after_s)}
        self._send(refusal.text.encode(), refusal.status, "text/plain", headers)

    def _send_json(self, content: Any, status: int = 200) -> None:
        self._send(json.dumps(content).encode(), status, "application/json", {})

    def _send(self, body: bytes, status: int, kind: str, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in (("content-type", kind), ("content-length", str(len(body))), *headers.items()):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass
