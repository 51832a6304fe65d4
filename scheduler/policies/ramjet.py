"""Ramjet: blocks that an instance is ahead of others in the cache, up to a cap, less four for each unit of its load.

Source: helixml/ramjet v0.7 src/router.rs and its port to SMG, with their defaults. In blocks of BLOCK_TOKENS tokens,
lead being the most that any instance holds:

    affinity = min(lead, MAX_AFFINITY_BLOCKS) - min(lead - held, MAX_AFFINITY_BLOCKS)     (the basis "relative")
    score = affinity - ALPHA * load

load: units of all requests in flight there, a unit for each begun LOAD_UNIT_TOKENS of a prompt that were not cached,
1 to MAX_REQUEST_LOAD_UNITS a request, until it ends. The highest score wins; then more blocks held; then ties rotate
there, least recently chosen here. As in the port: no floor of units by the longest answer, no cut of units at the first
token, and what is cached is known by KV events, here by the core's cache view.
"""

from collections.abc import Set

from dualmap.scheduler.config import SchedulerConfig
from dualmap.scheduler.instance.view import InstanceView
from dualmap.scheduler.placement import Placement
from dualmap.scheduler.policies.ties_in_turn import TiesInTurn
from dualmap.scheduler.request import Request

ALPHA = 4  # RJ_ROUTE_LOAD_ALPHA
BLOCK_TOKENS = 512  # 2,048 bytes of the prompt
MAX_AFFINITY_BLOCKS = 32  # RJ_ROUTE_MAX_OVERLAP_BLOCKS
LOAD_UNIT_TOKENS = 8192  # 32 KiB of the request's body
MAX_REQUEST_LOAD_UNITS = 8


class Ramjet(TiesInTurn):
    def __init__(self, config: SchedulerConfig) -> None:
        super().__init__()
        self._block_tokens = config.block_tokens

    def place(self, request: Request, slo_s: float, avoid: Set[str], now: float) -> Placement | None:
        views = self._usable(avoid)
        if not views:
            return None
        held = [self._held(request, view) for view in views]
        lead = max(held)
        best = max(
            range(len(views)), key=lambda i: (affinity_blocks(held[i], lead) - ALPHA * _load_units(views[i]), held[i])
        )
        return self._chosen(views[best].estimate_ttft(request))

    def _held(self, request: Request, view: InstanceView) -> int:
        tokens = view.cache.held_blocks(request.blocks) * (request.block_tokens or self._block_tokens)
        return min(tokens, request.prompt_tokens) // BLOCK_TOKENS


def affinity_blocks(held: int, lead: int) -> int:
    return min(lead, MAX_AFFINITY_BLOCKS) - min(lead - held, MAX_AFFINITY_BLOCKS)


def _load_units(view: InstanceView) -> int:
    units = 0
    for attempt in view.running.values():
        units += max(1, min(MAX_REQUEST_LOAD_UNITS, -(-attempt.uncached_tokens // LOAD_UNIT_TOKENS)))
    return units
