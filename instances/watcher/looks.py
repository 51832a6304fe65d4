"""Single looks at a server. What is not well is said after the server's address: `refused the connection`."""

import json
from typing import Any

from dualmap.instances.server.metrics import MetricsReader, ServerMetrics
from dualmap.instances.server.server_client import OK_STATUS, NoAnswerError, ServerClient

HEALTH_TIMEOUT_S = 2.0  # a server that takes longer to answer /health is not well
SCRAPE_TIMEOUT_S = 2.0
PROBE_TIMEOUT_S = 30.0  # longer than the longest step
ENGINE_FAILED_STATUS = 500
LOADING_STATUS = 503
KEY_STATUSES = (401, 403)


class NotReadyError(Exception):
    """The server cannot be used. loads: it will be, once it has loaded its model."""

    def __init__(self, why: str, loads: bool = False) -> None:
        super().__init__(why)
        self.loads = loads


async def ask_health(server: ServerClient) -> None:
    """Raises NotReadyError."""
    await _get(server, "/health", HEALTH_TIMEOUT_S)


async def ask_models(server: ServerClient) -> bytes:
    """For `model_cards`. Raises NotReadyError."""
    return await _get(server, "/v1/models", HEALTH_TIMEOUT_S)


async def ask_metrics(server: ServerClient, reader: MetricsReader) -> ServerMetrics | None:
    """None where there are none, or none of vLLM. Raises NoAnswerError."""
    answer = await server.get("/metrics", SCRAPE_TIMEOUT_S)
    try:
        return reader.read(answer.body) if answer.status == OK_STATUS else None
    except ValueError:  # what looks like a metric has no number
        return None


async def makes_token(server: ServerClient, model: str) -> bool:
    """Whether the server is alive. One that refuses the request, as a model without completions does, is."""
    body = {"model": model, "prompt": "a", "max_tokens": 1, "temperature": 0}
    try:
        answer = await server.post("/v1/completions", body, PROBE_TIMEOUT_S)
    except NoAnswerError:
        return False
    return answer.status != ENGINE_FAILED_STATUS


def model_cards(body: bytes) -> tuple[dict[str, Any], ...]:
    """The entries of a GET /v1/models answer, one or more. Raises NotReadyError."""
    try:
        cards = json.loads(body)["data"]
        cards = tuple({**card, "id": str(card["id"])} for card in cards)
    except (ValueError, KeyError, TypeError):
        raise NotReadyError("answers, but is no vLLM server: GET /v1/models gives no list of models") from None
    if not cards:
        raise NotReadyError("serves no model: GET /v1/models gives an empty list")
    return cards


async def _get(server: ServerClient, path: str, timeout_s: float) -> bytes:
    try:
        status, body = await server.get(path, timeout_s)
    except NoAnswerError as error:
        raise NotReadyError(str(error)) from None
    if status == OK_STATUS:
        return body
    if status in KEY_STATUSES:
        raise NotReadyError(f"wants a key (HTTP {status} from GET {path}; see gateway.instance_key_file)")
    if status == LOADING_STATUS:
        raise NotReadyError(f"is not ready yet (HTTP {status} from GET {path})", loads=True)
    raise NotReadyError(f"answers GET {path} with HTTP {status}")
