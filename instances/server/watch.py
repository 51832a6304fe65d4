"""How a server is looked at until it can be used, and watched while it serves: each `watch_` returns, with the reason,
when the instance is lost.

/health alone is not enough: vLLM answers it while it sleeps, is paused, or its engine hangs.
"""

import asyncio
from collections.abc import Callable
from typing import Any, NamedTuple

from dualmap.instances.server.http_call import NO_ANSWER, Answer, http_ask, http_get, http_post
from dualmap.instances.server.metrics import ServerMetrics, read_metrics
from dualmap.instances.server.model_cards import ModelCardsError, model_cards
from dualmap.instances.server.reasons import ANOTHER_PROCESS, no_answer, no_model_list, no_token, refused
from dualmap.scheduler.fleet.endpoint import Endpoint
from dualmap.scheduler.fleet.member import MemberState

HEALTH_INTERVAL_S = 0.5
HEALTH_TIMEOUT_S = 2.0  # a server that takes longer to answer /health is not well
HEALTH_MISSED = 3  # in a row, until an instance counts as lost; its connections show a dead one sooner
SCRAPE_INTERVAL_S = 1.0
SCRAPE_TIMEOUT_S = 2.0
STILL_S = 10.0  # an engine that makes no step for so long idles, has a very long step, or hangs: it is asked
PROBE_TIMEOUT_S = 30.0  # longer than the longest step
OK_STATUS = 200
ENGINE_FAILED_STATUS = 500
HEALTH_PATH, MODELS_PATH, PROBE_PATH = "/health", "/v1/models", "/v1/completions"
ASLEEP = "it is asleep"  # on purpose, so it is waited for, not started anew


class Look(NamedTuple):
    """state: READY if requests can be sent there, STARTING if it answers but cannot be used, else LOST; reason: why.
    cards: the `data` entries of its GET /v1/models."""

    state: MemberState
    reason: str = ""
    cards: tuple[dict[str, Any], ...] = ()


async def look_at(endpoint: Endpoint) -> Look:
    """Ask for its models, its health and a token."""
    models = await http_ask(endpoint, MODELS_PATH, HEALTH_TIMEOUT_S)
    if models.status != OK_STATUS:
        return _unready(endpoint, models, MODELS_PATH)
    try:
        cards = model_cards(models.body)
    except ModelCardsError:
        return Look(MemberState.STARTING, no_model_list(MODELS_PATH))
    health = await http_ask(endpoint, HEALTH_PATH, HEALTH_TIMEOUT_S)
    if health.status != OK_STATUS:
        return _unready(endpoint, health, HEALTH_PATH)
    status = await _probe(endpoint, str(cards[0]["id"]))
    if not _is_alive(status):
        return Look(MemberState.STARTING, no_token(PROBE_PATH, status))
    return Look(MemberState.READY, cards=cards)


def _unready(endpoint: Endpoint, answer: Answer, path: str) -> Look:
    state = MemberState.STARTING if answer.status else MemberState.LOST
    return Look(state, _why_not(endpoint, answer, path))


def _why_not(endpoint: Endpoint, answer: Answer, path: str) -> str:
    if answer.error is not None:
        return no_answer(answer.error, HEALTH_TIMEOUT_S)
    return refused(path, answer.status, with_key=bool(endpoint.key_file))


async def watch_health(endpoint: Endpoint) -> str:
    missed = 0
    while missed < HEALTH_MISSED:
        await asyncio.sleep(HEALTH_INTERVAL_S)
        answer = await http_ask(endpoint, HEALTH_PATH, HEALTH_TIMEOUT_S)
        missed = missed + 1 if answer.status != OK_STATUS else 0
    return _why_not(endpoint, answer, HEALTH_PATH)


async def watch_metrics(endpoint: Endpoint, note: Callable[[ServerMetrics], None]) -> str:
    """note: is told each sample. A server without metrics is watched no further."""
    started_at = 0.0
    while True:
        metrics = await scrape(endpoint)
        if metrics is not None:
            if started_at and metrics.started_at and metrics.started_at != started_at:
                return ANOTHER_PROCESS
            started_at = metrics.started_at
            if metrics.asleep:
                return ASLEEP
            note(metrics)
        await asyncio.sleep(SCRAPE_INTERVAL_S)


async def watch_progress(endpoint: Endpoint, model: str, steps: Callable[[], int | None]) -> str:
    """steps: of the engine, as last scraped; None where they are unknown: such a server is not asked, since a busy one
    might not answer in time."""
    seen = steps()
    while True:
        await asyncio.sleep(STILL_S)
        if seen is not None and seen == steps() and not await answers(endpoint, model) and steps() == seen:
            return f"no token and no step of the engine within {STILL_S + PROBE_TIMEOUT_S:g} s"
        seen = steps()


async def scrape(endpoint: Endpoint) -> ServerMetrics | None:
    body = await http_get(endpoint, "/metrics", SCRAPE_TIMEOUT_S)
    return None if body is None else read_metrics(body.decode(errors="replace"))


async def answers(endpoint: Endpoint, model: str) -> bool:
    """Whether the server makes a token. One that refuses the request, as a model without completions does, is alive."""
    return _is_alive(await _probe(endpoint, model))


async def _probe(endpoint: Endpoint, model: str) -> int:
    """Status of the answer to a request for a token."""
    body: dict[str, Any] = {"model": model, "prompt": "a", "max_tokens": 1, "temperature": 0}
    status, _ = await http_post(endpoint, PROBE_PATH, body, PROBE_TIMEOUT_S)
    return status


def _is_alive(status: int) -> bool:
    return status not in (NO_ANSWER, ENGINE_FAILED_STATUS)
