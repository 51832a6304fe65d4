"""What is kept of the requests that went to instances: for the page, for `dualmap explain`, and for other gateways."""

from collections.abc import Mapping, Sequence

from dualmap.router.gateway.pool import Pool
from dualmap.router.gateway.sent_prompts import SentPrompts
from dualmap.router.observe.pool_timeline import PoolTimeline
from dualmap.router.observe.recent_decisions import RecentDecisions
from dualmap.router.requests.driven import Driven
from dualmap.scheduler.commands import Dispatch


class Noted:
    """pool_of: by instance. timelines: by pool."""

    def __init__(self, pools: Sequence[Pool], now: float) -> None:
        self.pool_of: Mapping[str, Pool] = {}
        self.timelines = {pool.name: PoolTimeline(pool.scheduler.stats, now) for pool in pools}
        self.decisions = RecentDecisions()
        self.sent = SentPrompts()

    def dispatched(self, dispatch: Dispatch, driven: Driven) -> None:
        """A request goes to an instance."""
        pool = self.pool_of.get(dispatch.instance_id)
        attempt = None if pool is None else pool.attempt_of(dispatch)
        if pool is None or attempt is None:
            return
        self.timelines[pool.name].note_choice(dispatch.reason)
        self.decisions.note(pool.name, driven.arrived.request_id, driven.asked.prompt.model, dispatch, attempt)
        self.sent.note(dispatch.instance_id, attempt.request)

    def first_token_came(self, dispatch: Dispatch, ttft_s: float) -> None:
        """A stream has begun."""
        if (pool := self.pool_of.get(dispatch.instance_id)) is not None:
            self.timelines[pool.name].note_first_token(ttft_s)
