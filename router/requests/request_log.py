"""One line for each request, where that is asked for. No prompt, no key and no header is in it but the request's id."""

import logging
from collections.abc import Callable
from typing import Any

from dualmap.router.http.openai_errors import HttpError
from dualmap.router.observe.metrics import Outcome
from dualmap.router.requests.asked import Arrived, Prompt
from dualmap.router.requests.driven import Driven

logger = logging.getLogger("dualmap.requests")


class RequestLog:
    """See RequestWatcher. clock: that of the requests."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock

    def begun(self, arrived: Arrived) -> None:
        """Told when it ends."""

    def refused(self, arrived: Arrived, prompt: Prompt | None, error: HttpError) -> None:
        tokens = 0 if prompt is None else prompt.tokens
        logger.info("request", extra=self._fields(arrived, prompt, tokens, Outcome.CLIENT_ERROR, error.status))

    def ended(self, driven: Driven, outcome: Outcome, status: int) -> None:
        arrived, prompt, request = driven.arrived, driven.asked.prompt, driven.asked.request
        fields = self._fields(arrived, prompt, request.prompt_tokens, outcome, status)
        fields |= {"tenant": request.tenant, "adapter": request.adapter, "priority": request.priority}
        if (run := driven.running) is not None:
            began_at = run.first_byte_at if driven.rest is None else driven.rest.began_at
            if began_at:
                fields["first_byte_s"] = round(began_at - arrived.at, 4)
            if driven.rest is not None:
                fields |= {"continued": driven.rest.number, "failed_on": list(driven.rest.failed_on)}
            if driven.why_cut:
                fields["not_continued"] = driven.why_cut
            dispatch, usage = run.dispatch, run.usage()
            fields |= {
                "instance": dispatch.instance_id,
                "reason": dispatch.reason.value,
                "attempts": dispatch.attempt,
                "queue_s": round(dispatch.queued_s, 4),
                "estimated_ttft_s": round(dispatch.estimated_ttft_s, 4),
                "believed_cached_tokens": dispatch.cached_tokens,
            }
            if dispatch.loads is not None:
                fields["believed_in_tiers"] = dict(dispatch.loads.tokens)
            if driven.handoff is not None:
                fields["prefill_instance"] = driven.handoff.dispatch.instance_id
            if usage.prompt_tokens is not None:
                fields |= {
                    "prompt_tokens": usage.prompt_tokens,
                    "cached_tokens": usage.cached_tokens,
                    "output_tokens": usage.completion_tokens,
                }
        logger.info("request", extra=fields)

    def _fields(
        self, arrived: Arrived, prompt: Prompt | None, prompt_tokens: int, outcome: Outcome, status: int
    ) -> dict[str, Any]:
        return {
            "request_id": arrived.request_id.decode("latin-1"),
            "api": arrived.api.name,
            "outcome": outcome.value,
            "status": status,
            "model": "" if prompt is None else prompt.model,
            "e2e_s": round(self._clock() - arrived.at, 4),
            "prompt_tokens": prompt_tokens,
        }
