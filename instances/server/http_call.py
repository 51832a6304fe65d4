"""HTTP for the background: health probes, metrics, model lists; never requests of users."""

import asyncio
import http.client
import json
import urllib.error
import urllib.request
from typing import Any, NamedTuple

NO_ANSWER = 0


class Answer(NamedTuple):
    """status: NO_ANSWER where there was none, and `error` says why."""

    status: int
    body: bytes = b""
    error: Exception | None = None


async def http_get(url: str, timeout_s: float) -> bytes | None:
    """The body of a 200 answer; None for any other answer and for none."""
    answer = await http_ask(url, timeout_s)
    return answer.body if answer.status == 200 else None


async def http_ask(url: str, timeout_s: float) -> Answer:
    return await asyncio.to_thread(_call, urllib.request.Request(url), timeout_s)


async def http_post(url: str, value: Any, timeout_s: float) -> tuple[int, bytes]:
    """Send the value as JSON. Status and body of the answer; NO_ANSWER and nothing where there was none."""
    request = urllib.request.Request(url, json.dumps(value).encode(), {"content-type": "application/json"})
    return (await asyncio.to_thread(_call, request, timeout_s))[:2]


def _call(request: urllib.request.Request, timeout_s: float) -> Answer:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # instances are reached directly
    try:
        with opener.open(request, timeout=timeout_s) as response:
            return Answer(response.status, response.read())
    except urllib.error.HTTPError as error:
        with error:
            return Answer(error.code)
    except (OSError, ValueError, http.client.HTTPException) as error:
        return Answer(NO_ANSWER, error=error)
