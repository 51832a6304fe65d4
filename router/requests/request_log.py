"""One line for each request, where that is asked for. No prompt, no key and no header is in it but the request's id."""

import logging
from collections.abc import Callable
from typing import Any

from dualmap.router.apis.routes import Route
from dualmap.router.observe.metrics import Outcome
from dualmap.router.requests.driven import Driven

logger = logging.getLogger("dualmap.requests")


class RequestLog:
    """See RequestWatcher. clock: that of the exchanges."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock

    def begun(self, exchange: Driven, route: Route) -> None:
        """Told when it ends."""

    def ended(self, exchange: Driven, outcome: Outcome, status: int) -> None:
        fields: dict[str, Any] = {
            "request_id": exchange.request_id.decode("latin-1"),
            "outcome": outcome.value,
            "status": status,
            "model": exchange.model,
            "e2e_s": round(self._clock() - exchange.arrived_at, 4),
            "prompt_tokens": exchange.prompt_tokens,
        }
        if (request := exchange.asked) is not None:
            fields |= {"tenant": request.tenant, "adapter": request.adapter, "priority": request.priority}
        if exchange.first_byte_at:
            fields["first_byte_s"] = round(exchange.first_byte_at - exchange.arrived_at, 4)
        if (dispatch := exchange.dispatch) is not None:
            fields |= {
                "instance": dispatch.instance_id,
                "reason": dispatch.reason.value,
                "attempts": dispatch.attempt,
                "queue_s": round(dispatch.queued_s, 4),
                "estimated_ttft_s": round(dispatch.estimated_ttft_s, 4),
                "believed_cached_tokens": dispatch.cached_tokens,
            }
        usage = exchange.usage()
        if usage.prompt_tokens is not None:
            fields |= {
                "prompt_tokens": usage.prompt_tokens,
                "cached_tokens": usage.cached_tokens,
                "output_tokens": usage.completion_tokens,
            }
        logger.info("request", extra=fields)
