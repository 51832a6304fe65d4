"""Single looks at a server, and what they show."""

from collections.abc import Coroutine
from contextlib import closing, suppress
from typing import Any

from dualmap.instances.server.metrics import MetricsReader, ServerMetrics
from dualmap.instances.server.model_cards import ModelCardsError, model_cards
from dualmap.instances.server.reasons import KEY_REFUSED, no_model_list, no_rank, no_token, refused
from dualmap.instances.server.server_client import OK_STATUS, NoAnswerError, ServerClient
from dualmap.scheduler.fleet.endpoint import Endpoint
from dualmap.scheduler.fleet.member import MemberState

HEALTH_TIMEOUT_S = 2.0  # a server that takes longer to answer /health is not well
SCRAPE_TIMEOUT_S = 2.0
PROBE_TIMEOUT_S = 30.0  # longer than the longest step
SIDES_SEEN = 3  # connections, over which an address is asked when its process began
NO_ANSWER = 0
ENGINE_FAILED_STATUS = 500
HEALTH_PATH, MODELS_PATH, METRICS_PATH, PROBE_PATH = "/health", "/v1/models", "/metrics", "/v1/completions"
ASLEEP = "it is asleep"  # on purpose, so it is waited for, not started anew


class NotReadyError(Exception):
    """The server cannot be used; the message is the reason. state: STARTING if it answers, else LOST."""

    def __init__(self, state: MemberState, reason: str) -> None:
        super().__init__(reason)
        self.state = state


class KeyRefusedError(NotReadyError):
    """It wants a key, or another one."""


async def ask_health(server: ServerClient) -> None:
    """Raises NotReadyError."""
    await _get(server, HEALTH_PATH)


async def ask_models(server: ServerClient) -> tuple[dict[str, Any], ...]:
    """The `data` entries of its GET /v1/models. Raises NotReadyError."""
    body = await _get(server, MODELS_PATH)
    try:
        return model_cards(body)
    except ModelCardsError:
        raise NotReadyError(MemberState.STARTING, no_model_list(MODELS_PATH, server.what_it_is(body))) from None


async def ask_metrics(server: ServerClient, reader: MetricsReader) -> ServerMetrics | None:
    """None where there are none, or none of vLLM. Raises NoAnswerError."""
    status, body = await server.get(METRICS_PATH, SCRAPE_TIMEOUT_S)
    return reader.read(body) if status == OK_STATUS else None


async def ask_token(server: ServerClient, model: str) -> None:
    """A server that refuses the request, as a model without completions does, is alive. Raises NotReadyError."""
    body = {"model": model, "prompt": "a", "max_tokens": 1, "temperature": 0}
    try:
        status, _ = await server.post(PROBE_PATH, body, PROBE_TIMEOUT_S)
    except NoAnswerError:
        status = NO_ANSWER
    if status in (NO_ANSWER, ENGINE_FAILED_STATUS):
        raise NotReadyError(MemberState.STARTING, no_token(PROBE_PATH, status))


def check_rank(rank: int | None, metrics: ServerMetrics | None) -> None:
    """rank: of the engine that is meant, if one is. Raises NotReadyError where the server has not so many."""
    if rank is not None and metrics is not None and rank >= metrics.engines:
        raise NotReadyError(MemberState.STARTING, no_rank(rank, metrics.engines))


async def leads_elsewhere(endpoint: Endpoint, started_at: float) -> bool:
    """Whether new connections lead to server processes that began at other times."""
    for _ in range(SIDES_SEEN):
        with closing(ServerClient(endpoint)) as other, suppress(NoAnswerError):
            metrics = await ask_metrics(other, MetricsReader())
            if metrics is not None and metrics.started_at != started_at:
                return True
    return False


async def lost_by(end: Coroutine[Any, Any, str]) -> NotReadyError:
    """end: returns why an instance is lost."""
    return NotReadyError(MemberState.LOST, await end)


async def _get(server: ServerClient, path: str) -> bytes:
    try:
        status, body = await server.get(path, HEALTH_TIMEOUT_S)
    except NoAnswerError as error:
        raise NotReadyError(MemberState.LOST, str(error)) from None
    if status != OK_STATUS:
        kind = KeyRefusedError if status in KEY_REFUSED else NotReadyError
        what = server.what_it_is(body)
        raise kind(MemberState.STARTING, refused(path, status, bool(server.endpoint.key_file), what))
    return body
