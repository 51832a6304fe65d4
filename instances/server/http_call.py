"""HTTP for the background: health probes, metrics, model lists; never requests of users."""

import asyncio
import http.client
import json
import urllib.error
import urllib.request
from typing import Any

NO_ANSWER = 0


async def http_get(url: str, timeout_s: float) -> bytes | None:
    """The body of a 200 answer; None for any other answer and for none."""
    status, body = await asyncio.to_thread(_call, urllib.request.Request(url), timeout_s)
    return body if status == 200 else None


async def http_post(url: str, value: Any, timeout_s: float) -> tuple[int, bytes]:
    """Send the value as JSON. Status and body of the answer; NO_ANSWER and nothing where there was none."""
    request = urllib.request.Request(url, json.dumps(value).encode(), {"content-type": "application/json"})
    return await asyncio.to_thread(_call, request, timeout_s)


def _call(request: urllib.request.Request, timeout_s: float) -> tuple[int, bytes]:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # instances are reached directly
    try:
        with opener.open(request, timeout=timeout_s) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, b""
    except (OSError, ValueError, http.client.HTTPException):
        return NO_ANSWER, b""
