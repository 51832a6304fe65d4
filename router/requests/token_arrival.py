"""Requests whose prompts are known by their tokens: they reach the core once these are there, or without them when that
takes too long."""

import asyncio
from asyncio import wrap_future
from collections.abc import Callable
from dataclasses import replace

from dualmap.router.apis.api import Api
from dualmap.router.requests.admission import Admission
from dualmap.router.requests.asked import Asked, Prompt
from dualmap.router.requests.core import Core
from dualmap.router.requests.driven import Driven
from dualmap.router.tokens.token_blocks import TokenBlocks

TIMEOUT_S = 0.5  # a tenth of the usual objective: what waits longer is placed by its text


class TokenArrival:
    """core: whose prompts these are. arrive: takes the request to the core, unless its client has left. late: prompts
    whose tokens took too long."""

    def __init__(
        self, tokens: TokenBlocks, block_tokens: int, core: Core, arrive: Callable[[Driven], None], admission: Admission
    ) -> None:
        self.late = 0
        self.core = core
        self._tokens = tokens
        self._block_tokens = block_tokens
        self._arrive = arrive
        self._admission = admission
        self._tasks: set[asyncio.Task[None]] = set()

    def reads(self, prompt: Prompt, api: Api) -> bool:
        """Whether such a prompt has tokens that can be told."""
        return api.tokens is not None and prompt.read.understood and not prompt.read.media

    def begin(self, driven: Driven) -> None:
        """Look for the tokens of a prompt. driven: admitted, as it is known by its text."""
        task = asyncio.get_running_loop().create_task(self._arrive_known(driven, driven.asked))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def outcomes(self) -> dict[str, int]:
        """Prompts by what became of their tokens: exact, or why there were none."""
        fallbacks = {why.value: count for why, count in self._tokens.fallbacks.items()}
        return {"exact": self._tokens.exact, "late": self.late, **fallbacks}

    async def _arrive_known(self, driven: Driven, asked: Asked) -> None:
        known = None
        read = driven.arrived.api.tokens
        assert read is not None, "see `reads`"
        try:
            async with asyncio.timeout(TIMEOUT_S):
                known = await wrap_future(self._tokens.submit(asked.prompt.body, read, asked.request.adapter))
        except TimeoutError:
            self.late += 1
        if known is not None:
            request, admission = asked.request, self._admission
            length = (request.model, known.prompt_tokens, request.max_output_tokens, 1.0)
            request = replace(
                request,
                length_tokens=admission.length_to_ask(*length),
                blocks=known.blocks,
                key_blocks=request.blocks,  # it is named alike whether its tokens come in time or not
                prompt_tokens=known.prompt_tokens,
                block_tokens=self._block_tokens,
                may_split=request.may_split and not admission.is_too_long(*length),
            )
            driven.admitted(replace(asked, request=request))
        self._arrive(driven)
