"""Which of a server's engines computes a request: the one that is named, or the one with the least to do."""

from collections.abc import Sequence

from dualmap.instances.simulated.engine_loop import EngineLoop
from dualmap.router.http.openai_errors import RequestRefusedError, bad_request

# Paths of which vLLM 0.32 reads X-data-parallel-rank; for others, /v1/responses among them, it chooses itself.
PINNED = ("/v1/chat/completions", "/v1/completions", "/v1/messages", "/inference/v1/generate")
FULL_FROM, WAITING_WEIGHT = 0.5, 6.0  # share of the KV cache in use from which what waits counts more, and how much


class Engines:
    """As vLLM's DPLBAsyncMPClient.get_core_engine_for_request with one API process."""

    def __init__(self, loops: Sequence[EngineLoop]) -> None:
        self._loops = loops
        self._first = 0  # with which a search begins, so that ties go round

    def of_rank(self, header: bytes) -> EngineLoop:
        """header: the value of X-data-parallel-rank; what is no number counts as none. Raises RequestRefusedError."""
        try:
            rank = int(header)
        except ValueError:
            return self.least_loaded()
        if not 0 <= rank < len(self._loops):
            message = f"data_parallel_rank {rank} is out of range [0, {len(self._loops)})."
            raise RequestRefusedError(bad_request(message))
        return self._loops[rank]

    def least_loaded(self) -> EngineLoop:
        loops = [*self._loops[self._first :], *self._loops[: self._first]]
        self._first = (self._first + 1) % len(loops)
        return min(loops, key=_score)


def _score(loop: EngineLoop) -> float:
    engine = loop.engine
    return loop.in_flight + engine.waiting * WAITING_WEIGHT * max(0.0, engine.kv_usage - FULL_FROM)
