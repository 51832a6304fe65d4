"""How long an instance takes to read the KV of a prompt from another one."""

from dualmap.instances.simulated.engine_profile import EngineProfile


class TransferLink:
    """Prompts come one after the other over the reader's link, each with a latency that holds up no other."""

    def __init__(self, profile: EngineProfile) -> None:
        self._profile = profile
        self._free_s = 0.0

    def arrives_s(self, tokens: int, now: float) -> float:
        """When so many tokens' KV is there that is asked for now, in seconds on the caller's clock."""
        self._free_s = max(self._free_s, now) + tokens * self._profile.transfer_s_per_token
        return self._free_s + self._profile.transfer_latency_s
