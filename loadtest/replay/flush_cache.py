"""Empties an instance's prefix cache, so that one run leaves nothing to the next."""

import http.client
import json

TIMEOUT_S = 20.0


class FlushError(Exception):
    """The cache could not be emptied; the message says whose and why."""


def flush_cache(host: str, port: int) -> None:
    """vLLM has the endpoint when VLLM_SERVER_DEV_MODE=1 is set. Raises FlushError."""
    connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT_S)
    try:
        connection.request("POST", "/reset_prefix_cache")
        answer = connection.getresponse()
        body = answer.read()
        if answer.status != 200:
            raise FlushError(f"the cache of {host}:{port} could not be emptied: HTTP {answer.status}")
        if body and json.loads(body).get("success") is False:
            raise FlushError(f"the cache of {host}:{port} is in use and could not be emptied")
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise FlushError(f"the cache of {host}:{port} could not be emptied: {error}") from None
    finally:
        connection.close()
