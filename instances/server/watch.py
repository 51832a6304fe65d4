"""How a server is watched while it serves: each of these returns, with the reason, when the instance is lost.

/health alone is not enough: vLLM answers it while it sleeps, is paused, or its engine hangs.
"""

import asyncio
from collections.abc import Callable
from typing import Any

from dualmap.instances.server.http_call import NO_ANSWER, http_get, http_post
from dualmap.instances.server.metrics import ServerMetrics, read_metrics
from dualmap.scheduler.fleet.endpoint import Endpoint

HEALTH_INTERVAL_S = 0.5
HEALTH_TIMEOUT_S = 2.0  # a server that takes longer to answer /health is not well
HEALTH_MISSED = 3  # in a row, until an instance counts as lost; its connections show a dead one sooner
SCRAPE_INTERVAL_S = 1.0
SCRAPE_TIMEOUT_S = 2.0
STILL_S = 10.0  # an engine that makes no step for so long idles, has a very long step, or hangs: it is asked
PROBE_TIMEOUT_S = 30.0  # longer than the longest step
ENGINE_FAILED_STATUS = 500
ASLEEP = "it is asleep"  # on purpose, so it is waited for, not started anew


async def watch_health(endpoint: Endpoint) -> str:
    missed = 0
    while missed < HEALTH_MISSED:
        await asyncio.sleep(HEALTH_INTERVAL_S)
        missed = missed + 1 if await http_get(endpoint, "/health", HEALTH_TIMEOUT_S) is None else 0
    return f"/health did not answer {HEALTH_MISSED} times in a row"


async def watch_metrics(endpoint: Endpoint, note: Callable[[ServerMetrics], None]) -> str:
    """note: is told each sample. A server without metrics is watched no further."""
    started_at = 0.0
    while True:
        metrics = await scrape(endpoint)
        if metrics is not None:
            if started_at and metrics.started_at and metrics.started_at != started_at:
                return "another server process answers at its address"
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
    body: dict[str, Any] = {"model": model, "prompt": "a", "max_tokens": 1, "temperature": 0}
    status, _ = await http_post(endpoint, "/v1/completions", body, PROBE_TIMEOUT_S)
    return status not in (NO_ANSWER, ENGINE_FAILED_STATUS)
