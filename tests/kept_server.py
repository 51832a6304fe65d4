"""A server of a few endpoints that stands in for vLLM where a deployment is about what servers keep: responses, and
LoRA adapters that are loaded while it runs."""

import json
import socket
import threading
import uuid
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from dualmap.scheduler.fleet.endpoint import Endpoint

Answer = tuple[int, Any]


class KeptServer:
    """seen: requests, as "METHOD path". refuses: status of its answer to a load of an adapter, if not 200."""

    def __init__(self, model: str = "m", port: int = 0) -> None:
        self.model = model
        self.responses: set[str] = set()
        self.adapters: dict[str, str] = {}
        self.refuses = 0
        self.seen: list[str] = []
        handler = type("Handler", (_Handler,), {"owner": self})
        self._server = _Server(("127.0.0.1", port), handler)
        self.port = self._server.server_address[1]
        self.endpoint = Endpoint("127.0.0.1", self.port)
        self.url = str(self.endpoint)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Its connections end with it, as a process's do."""
        self._server.shutdown()
        self._server.server_close()
        for connection in list(self._server.connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def answer(self, method: str, path: str, body: dict[str, Any]) -> Answer:
        self.seen.append(f"{method} {path}")
        match path.strip("/").split("/"):
            case ["health"] | ["metrics"]:
                return 200, {}
            case ["v1", "models"]:
                cards = [{"id": self.model}] + [{"id": name, "parent": self.model} for name in self.adapters]
                return 200, {"object": "list", "data": cards}
            case ["v1", "completions" | "chat", *_]:
                return 200, {"choices": [{"text": "x", "message": {"content": "x"}, "finish_reason": "length"}]}
            case ["v1", "responses"]:
                return self._respond(body.get("previous_response_id"))
            case ["v1", "responses", state_id, *_]:
                return (200, {"id": state_id}) if state_id in self.responses else _error(404, f"no {state_id}")
            case ["v1", "load_lora_adapter"]:
                return self._load(body)
            case ["v1", "unload_lora_adapter"]:
                if self.adapters.pop(body["lora_name"], None) is None:
                    return _error(404, "cannot be found")
                return 200, "removed"
        return _error(404, "nothing here")

    def _respond(self, before: str | None) -> Answer:
        if before is not None and before not in self.responses:
            return _error(404, f"no {before}")
        state_id = f"resp_{uuid.uuid4().hex}"
        self.responses.add(state_id)
        return 200, {"id": state_id, "object": "response", "output": []}

    def _load(self, body: dict[str, Any]) -> Answer:
        if self.refuses:
            return _error(self.refuses, f"{self.port} does not load")
        if body["lora_name"] in self.adapters and not body.get("load_inplace"):
            return _error(400, "has already been loaded")
        self.adapters[body["lora_name"]] = body["lora_path"]
        return 200, "added"


def _error(status: int, message: str) -> Answer:
    return status, {"error": {"message": message, "type": "e", "param": None, "code": status}}


class _Server(ThreadingHTTPServer):
    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        super().__init__(address, handler)
        self.connections: set[socket.socket] = set()

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        self.connections.add(connection)
        return connection, address

    def shutdown_request(self, request: Any) -> None:
        self.connections.discard(request)
        super().shutdown_request(request)


class _Handler(BaseHTTPRequestHandler):
    owner: KeptServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", "0")))
        status, value = self.owner.answer(self.command, self.path.partition("?")[0], json.loads(body or b"{}"))
        content = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_POST = do_DELETE = do_GET  # noqa: N815

    def log_message(self, format: str, *args: object) -> None:
        pass
