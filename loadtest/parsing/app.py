"""The server behind: run as a file by the Python of vLLM's environment, with its uvicorn: PORT. It notes what it reads;
GET /noted tells that, and forgets it."""

import importlib
import json
import re
import sys
from collections.abc import Awaitable, Callable
from typing import Any

MODELS = json.dumps({"object": "list", "data": [{"id": "m", "object": "model"}]}).encode()
_NUMBER = re.compile(r"\d{5}")
noted: list[dict[str, Any]] = []


async def app(
    scope: dict[str, Any], receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]
) -> None:
    if scope["type"] == "lifespan":
        while True:
            kind = (await receive())["type"]
            await send({"type": f"{kind}.complete"})
            if kind == "lifespan.shutdown":
                return
    if scope["type"] != "http":
        await send({"type": "websocket.close"})
        return
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if message["type"] == "http.disconnect":
            return  # it was not read whole
        if not message.get("more_body"):
            break
    answer = b"ok"
    if scope["path"] == "/v1/models":
        answer = MODELS
    elif scope["path"] == "/noted":
        answer = json.dumps(noted).encode()
        noted.clear()
    else:
        _note(scope, body)
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(answer))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": answer})


def _note(scope: dict[str, Any], body: bytes) -> None:
    target = scope["raw_path"].decode("latin-1")
    if scope["query_string"]:
        target += "?" + scope["query_string"].decode("latin-1")
    cases = [value.decode("latin-1") for name, value in scope["headers"] if name == b"x-case"]
    found = _NUMBER.search(" ".join((*cases, target, body.decode("latin-1"))))
    noted.append(
        {
            "case": int(found[0]) if found else None,
            "method": scope["method"],
            "target": target,
            "body": body.decode("latin-1"),
        }
    )


if __name__ == "__main__":
    importlib.import_module("uvicorn").run(
        app, host="127.0.0.1", port=int(sys.argv[1]), http="httptools", log_level="critical", access_log=False
    )
