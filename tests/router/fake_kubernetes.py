"""Kubernetes' API server as far as discovery needs it: pods of one namespace, listed and watched over real HTTP."""

import json
import ssl
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

NAMESPACE = "serving"
PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"


class FakeKubernetes:
    """status: of its answers, where it is not 200; watch_status: of watches. silent: it takes requests and says
    nothing. token: the only one it lets in. lists: how often it was asked for a list."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.status = self.watch_status = 200
        self.silent = False
        self.token: str | None = None
        self.lists = 0
        self.watches = 0
        self.selectors: set[str] = set()
        self.tokens: set[str] = set()
        self._pods: dict[str, dict[str, Any]] = {}
        self._version = 1
        self._events: list[tuple[int, dict[str, Any]]] = []
        self._changed = threading.Condition()
        self._breaks = 0
        handler = type("Handler", (_Handler,), {"fake": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        return self._server.server_address[1]

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

    def put(self, name: str, ip: str | None = None, phase: str = "Running", leaving: bool = False) -> None:
        metadata: dict[str, Any] = {"name": name, "namespace": NAMESPACE, "uid": f"uid-{name}"}
        if leaving:
            metadata["deletionTimestamp"] = "2026-01-01T00:00:00Z"
        status = {"phase": phase} | ({"podIP": ip} if ip else {})
        known = name in self._pods
        self._happen("MODIFIED" if known else "ADDED", {"kind": "Pod", "metadata": metadata, "status": status})

    def delete(self, name: str) -> None:
        self._happen("DELETED", self._pods[name])

    def break_watches(self, error: Mapping[str, Any] | None = None) -> None:
        """With an event that says so, or without a word."""
        with self._changed:
            if error is not None:
                self._events.append((self._version, {"type": "ERROR", "object": {"kind": "Status", **error}}))
            self._breaks += 1
            self._changed.notify_all()

    def wait_until_it_speaks(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: not self.silent)

    def close(self) -> None:
        self.silent = False
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

    def list(self) -> dict[str, Any]:
        with self._changed:
            self.lists += 1
            metadata = {"resourceVersion": str(self._version)}
            return {"kind": "PodList", "apiVersion": "v1", "metadata": metadata, "items": list(self._pods.values())}

    def watch(self, version: int, send: Any) -> None:
        with self._changed:
            self.watches += 1
            sent, breaks = len([1 for at, _ in self._events if at <= version]), self._breaks
            while True:
                for _, event in self._events[sent:]:
                    send(json.dumps(event).encode() + b"\n")
                sent = len(self._events)
                if self._breaks != breaks:
                    return
                self._changed.wait()


class _Handler(BaseHTTPRequestHandler):
    fake: FakeKubernetes
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        authorization = self.headers.get("authorization", "")
        self.fake.tokens.add(authorization)
        if self.fake.silent:
            self.fake.wait_until_it_speaks()
            self.close_connection = True
        elif self.fake.token is not None and authorization != f"Bearer {self.fake.token}":
            self._send_json({"kind": "Status", "message": "Unauthorized", "code": 401}, 401)
        elif url.path.rstrip("/") == "/version":
            self._send_json({"major": "1", "minor": "35", "gitVersion": "v1.35.0"})
        elif self.fake.status != 200:
            self._send_json({"kind": "Status", "message": "not now", "code": self.fake.status}, self.fake.status)
        elif url.path != PODS:
            self._send_json({"kind": "Status", "message": f"no {url.path}", "code": 404}, 404)
        elif query.get("watch") and self.fake.watch_status != 200:
            self._send_json({"kind": "Status", "message": "not now"}, self.fake.watch_status)
        elif query.get("watch"):
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("transfer-encoding", "chunked")
            self.end_headers()
            try:
                self.fake.watch(int(query["resourceVersion"]), self._send_chunk)
                self._send_chunk(b"")
            except OSError:
                self.close_connection = True
        else:
            self.fake.selectors.add(query.get("labelSelector", ""))
            self._send_json(self.fake.list())

    def _send_chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))
        self.wfile.flush()

    def _send_json(self, content: Any, status: int = 200) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass
