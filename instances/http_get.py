"""GET for the background: health probes and model lists, never requests of users."""

import asyncio
import urllib.error
import urllib.request


async def http_get(url: str, timeout_s: float) -> bytes | None:
    """The body of a 200 answer; None for any other answer and for none."""
    return await asyncio.to_thread(_get, url, timeout_s)


def _get(url: str, timeout_s: float) -> bytes | None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # instances are reached directly
    try:
        with opener.open(url, timeout=timeout_s) as response:
            body: bytes = response.read()
            return body if response.status == 200 else None
    except (urllib.error.URLError, OSError, ValueError):
        return None
