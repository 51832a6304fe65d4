"""What a prefill leg leaves for the decode leg of its request."""

from dualmap.router.apis.usage import Usage
from dualmap.scheduler.commands import Dispatch
from dualmap.scheduler.record import record


@record
class Handoff:
    """dispatch: of the prefill leg. params: where the computed prompt is, as its instance says in JSON; empty where it
    does not. usage: as it counted."""

    dispatch: Dispatch
    params: bytes
    usage: Usage

    def cached_at(self, instance_id: str) -> int | None:
        """Tokens of the prompt that were cached before the request came, where the decode leg runs at that instance,
        which takes all that it need not compute for cached; None where its own count is right, or nobody knows."""
        return self.usage.cached_tokens if self.params or instance_id == self.dispatch.instance_id else None
