"""What each tenant holds of an instance's places and KV cache while its requests run, and who has to leave the rest of
them to others: prompts take turns (fair_queue.py), but answers stay, and a flood would soon fill all places with its
own."""

from collections import Counter
from collections.abc import Sequence, Set

# Of the release window, where tenants share an instance: what one has sent ahead, another waits for.
SHARED_WINDOW = 0.25
RESERVED = 0.25  # of places and KV cache, for tenants that hold less than an equal share; the others have the rest

NOBODY: Set[str] = frozenset()


class TenantShares:
    """Where one tenant alone runs requests, it may fill the instance."""

    def __init__(self, max_running: int, kv_tokens: int) -> None:
        self._max_running = max_running
        self._kv_tokens = kv_tokens
        self._running: dict[str, int] = {}  # by tenant, none of them 0
        self._kv: dict[str, int] = {}

    def take(self, tenant: str, kv_tokens: int) -> None:
        self._running[tenant] = self._running.get(tenant, 0) + 1
        self._kv[tenant] = self._kv.get(tenant, 0) + kv_tokens

    def give_back(self, tenant: str, kv_tokens: int) -> None:
        if self._running[tenant] == 1:
            del self._running[tenant], self._kv[tenant]
        else:
            self._running[tenant] -= 1
            self._kv[tenant] -= kv_tokens

    @property
    def several(self) -> bool:
        """Whether requests of more than one tenant run."""
        return len(self._running) > 1

    def crowding(self, running: int, kv_tokens: int) -> Set[str]:
        """Tenants that must not start another request while so many run and so much of the KV cache is taken: less than
        the reserve is left, and they have more than an equal share."""
        tenants = len(self._running)
        if tenants < 2:
            return NOBODY
        found = set()
        if running > self._max_running * (1.0 - RESERVED):
            found |= {tenant for tenant, own in self._running.items() if own * tenants > self._max_running}
        if kv_tokens > self._kv_tokens * (1.0 - RESERVED):
            found |= {tenant for tenant, own in self._kv.items() if own * tenants > self._kv_tokens}
        return found

    def check(self, taken: Sequence[tuple[str, int]]) -> None:
        """Raise AssertionError where these are not the tenants and KV tokens that are taken."""
        assert self._running == Counter(tenant for tenant, _ in taken), "running requests of tenants"
        assert self._kv.keys() == self._running.keys(), "tenants"
        for tenant, tokens in self._kv.items():
            assert tokens == sum(own for name, own in taken if name == tenant), f"KV cache of tenant {tenant!r}"
