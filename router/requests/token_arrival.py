"""Requests whose prompts are known by their tokens: they reach the core once these are there, or without them when that
takes too long."""

import asyncio
from asyncio import wrap_future
from collections.abc import Callable
from dataclasses import replace

from dualmap.router.requests.driven import Driven
from dualmap.router.tokens.token_blocks import TokenBlocks
from dualmap.scheduler.request import Request

TIMEOUT_S = 0.5  # a tenth of the usual objective: what waits longer is placed by its raw bytes


class TokenArrival:
    """arrive: takes the request to the core, unless its client has left. late: prompts whose tokens took too long."""

    def __init__(self, tokens: TokenBlocks, block_tokens: int, arrive: Callable[[Driven, Request], None]) -> None:
        self.late = 0
        self._tokens = tokens
        self._block_tokens = block_tokens
        self._arrive = arrive
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(self, exchange: Driven, request: Request, chat: bool, lora_name: str) -> None:
        """request: as it is known by its raw bytes."""
        task = asyncio.get_running_loop().create_task(self._arrive_known(exchange, request, chat, lora_name))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def outcomes(self) -> dict[str, int]:
        """Prompts by what became of their tokens: exact, or why there were none."""
        fallbacks = {why.value: count for why, count in self._tokens.fallbacks.items()}
        return {"exact": self._tokens.exact, "late": self.late, **fallbacks}

    async def _arrive_known(self, exchange: Driven, request: Request, chat: bool, lora_name: str) -> None:
        known = None
        try:
            async with asyncio.timeout(TIMEOUT_S):
                known = await wrap_future(self._tokens.submit(exchange.body, chat, lora_name))
        except TimeoutError:
            self.late += 1
        if known is not None:
            exchange.prompt_tokens = known.prompt_tokens
            request = replace(
                request, blocks=known.blocks, prompt_tokens=known.prompt_tokens, block_tokens=self._block_tokens
            )
        self._arrive(exchange, request)
