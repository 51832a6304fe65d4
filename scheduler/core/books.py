"""What the core keeps of requests and instances, and how a request's attempt is taken off it."""

from collections import deque
from collections.abc import Iterable

from dualmap.scheduler.answer_lengths import AnswerLengths
from dualmap.scheduler.attempt import LEADING_BLOCKS, Attempt, AttemptState, Ending
from dualmap.scheduler.config import SchedulerConfig
from dualmap.scheduler.events import ServedModel
from dualmap.scheduler.held_requests import HeldRequests
from dualmap.scheduler.holders import Holders
from dualmap.scheduler.instance.pace import FleetPace
from dualmap.scheduler.instance.view import InstanceView
from dualmap.scheduler.lease import Lease
from dualmap.scheduler.load_order import LoadOrder
from dualmap.scheduler.long_waits import LongWaits
from dualmap.scheduler.offers import Offers
from dualmap.scheduler.pick import recompute_price
from dualmap.scheduler.policies import configured_for, make_policy
from dualmap.scheduler.policies.dualmap import DualMap
from dualmap.scheduler.request import Request
from dualmap.scheduler.role import Leg, Role
from dualmap.scheduler.sessions import Sessions
from dualmap.scheduler.stats import SchedulerStats
from dualmap.scheduler.tiers import Tiers
from dualmap.scheduler.time_outs import TimeOuts
from dualmap.scheduler.untold import Untold

REMEMBERED = 256  # attempts that are over, for stories
LOOK_INTERVAL_S = 1.0  # how often what instances say, and how fast they are, is looked at without any event


class Books:
    """config: LIVE_SETTINGS of it may change. version: counts changes of membership.
    loads: of ready instances. attempts: by request id, every request in flight but those that are held, which no
    instance can run. ended: the last that are over.
    long_ended: of those since the last tick, the ones with long prompts, which their next attempts still may need.
    paces: by what instances are there for, and the models that they serve. tiers: by these models. offers: what ready
    instances serve.
    suspects: instances that are left alone for a while. silent: those that had fallen silent at the last
    look, while others spoke.
    holding: instances where one waits so that others have their tokens in time. slow: those that have joined others at
    work. assumed: heap of (time, request id, attempt number): first tokens that will not be seen.
    hears_others: whether other gateways have said what they booked. looked_at: when instances were last looked at
    without any event.
    """

    def __init__(self, config: SchedulerConfig) -> None:
        self.config = config = configured_for(config)
        self.holders = Holders()
        self.loads: LoadOrder[InstanceView] = LoadOrder()
        self.paces: dict[tuple[Role, frozenset[str]], FleetPace] = {}
        self.tiers: dict[frozenset[str], Tiers] = {}
        self.answers = AnswerLengths()
        self.sessions = Sessions()
        self.offers = Offers()
        self.policy = make_policy(config, self.holders, self.loads, self.offers, self.answers, self.sessions)
        self.instances: dict[str, InstanceView] = {}
        self.attempts: dict[str, Attempt] = {}
        self.ended: deque[Attempt] = deque(maxlen=REMEMBERED)
        self.long_ended: list[Attempt] = []
        self.stats = SchedulerStats()
        self.version = 0
        self.suspects: set[str] = set()
        self.silent: set[str] = set()
        self.holding: set[str] = set()
        self.slow: list[InstanceView] = []
        self.assumed: list[tuple[float, str, int]] = []
        self.time_outs = TimeOuts(config.queue_timeout_s, self.attempts)
        self.untold = Untold(config.ttft_slo_s)
        self.long_waits = LongWaits(config.patience_slos, self.attempts)
        self.held = HeldRequests()
        self.hears_others = False
        self.looked_at: float | None = None

    def pace_of(self, models: Iterable[ServedModel], role: Role = Role.BOTH) -> FleetPace:
        """Of the instances that serve these models: how fast an instance is says something of its like alone."""
        names = frozenset(model.name for model in models)
        tiers = self.tiers.setdefault(names, Tiers())
        return self.paces.setdefault((role, names), FleetPace(tiers))

    @property
    def in_flight(self) -> int:
        """Requests that are known."""
        return len(self.attempts) + len(self.held)

    def is_runnable(self, request: Request) -> bool:
        """Whether there is an instance for it that takes requests."""
        able = self.offers.fleet(request).able
        return any(i in request.only for i in able) if request.only else bool(able)

    def running(self, request_id: str, number: int) -> Attempt | None:
        """The attempt, if it is the request's current one and has been dispatched."""
        attempt = self.attempts.get(request_id)
        if attempt is None or attempt.number != number or attempt.state is AttemptState.WAITING:
            return None
        return attempt

    def is_last(self, attempt: Attempt) -> bool:
        """Whether no attempt follows if this one fails. Who searches asks all instances that take requests."""
        if attempt.request.searches:
            tried = attempt.tried | {attempt.instance_id}
            views = self.instances.values()
            return all(v.draining or v.instance_id in tried or not v.can_run(attempt.request) for v in views)
        return self._tries(attempt) >= self.config.max_attempts

    def takes_longer(self, attempt: Attempt) -> bool:
        """Whether another ready instance takes longer prompts and answers than the attempt's own."""
        request = attempt.asked
        if request.only or self._tries(attempt) >= self.config.max_attempts:
            return False
        return self.offers.longest_tokens(request) > self.instances[attempt.instance_id].takes_tokens(request)

    def _tries(self, attempt: Attempt) -> int:
        """Attempts at what its request asks for; those before that gave the client part of an answer do not count, nor
        do prefill legs that were completed, nor a leg that was refused."""
        return attempt.number - attempt.request.goes_on_after - attempt.legs_done

    def recompute_price(self, view: InstanceView) -> float:
        """As busy as those are that serve what the instance serves."""
        return recompute_price(self.loads.busy_of(self.offers.peers(view.instance_id)), self.config)

    def tell_waiting_of_hot(self) -> None:
        """What many share is known anew. Those that wait may leave where it is cached, too: a copy pays for itself."""
        if isinstance(self.policy, DualMap):
            for attempt in self.attempts.values():
                if attempt.state is AttemptState.WAITING:
                    attempt.shares(self.policy.shared_blocks(attempt.request))

    def mean_backlog_s(self, request: Request) -> float:
        """Of the instances that can run the request."""
        return self.loads.mean_s_of(None if self.offers.alike else self.offers.fleet(request).able)

    def leasing(self, lease: Lease) -> InstanceView | None:
        """Who keeps the computed prompt; None where its server is gone."""
        view = self.instances.get(lease.instance_id)
        return view if view is not None and view.incarnation == lease.incarnation else None

    def begin_lease(self, attempt: Attempt, lease: Lease) -> None:
        """The attempt is to fetch the prompt."""
        self.instances[lease.instance_id].booked.lend(attempt.request)

    def end_lease(self, attempt: Attempt, lease: Lease) -> InstanceView | None:
        """The prompt is fetched, or nobody will fetch it: who has kept it has room."""
        view = self.leasing(lease)
        if view is not None:
            view.booked.take_back(attempt.request)
        return view

    def give_back(self, attempt: Attempt, view: InstanceView, ending: Ending, now: float) -> InstanceView | None:
        """The request is over, or its next attempt comes: the books are as without this one, but for the prompt that a
        completed prefill leg leaves. Returns who has kept a prompt for it until now, and has room."""
        del self.attempts[attempt.request.id]
        lender = None
        if attempt.lease is not None and not attempt.started:
            lender = self.end_lease(attempt, attempt.lease)
        if attempt.state is AttemptState.WAITING:
            view.take_out(attempt)
        else:
            if attempt.state is AttemptState.PREFILLING and attempt.lease is None:
                view.speed.starts(now)  # the time it took is nobody else's
            view.release(attempt, lends=ending is Ending.PREFILLED)
        attempt.end(ending, now)
        self.ended.append(attempt)
        if len(attempt.request.blocks) > LEADING_BLOCKS:
            self.long_ended.append(attempt)
        return lender

    def shorten_ended(self) -> None:
        """Who tells of attempts keeps thousands of them, and a prompt of megabytes has thousands of blocks."""
        for attempt in self.long_ended:
            attempt.shorten()
        self.long_ended.clear()

    def check(self) -> None:
        """Raise AssertionError that names the book and what is wrong in it; cost: all that is kept is looked at."""
        views = self.instances.values()
        for view in views:
            try:
                view.check()
            except AssertionError as wrong:
                raise AssertionError(f"instance {view.instance_id!r}: {wrong}") from wrong
        booked = [attempt for view in views for attempt in (*view.waiting, *view.running.values())]
        assert all(self.attempts.get(a.request.id) is a for a in booked), "an instance has what is not in flight"
        assert len(self.attempts) == len(booked), "one is in flight without an instance, or at two"
        for held in self.held:
            assert held.request.id not in self.attempts, "a request that is held is in flight"
            assert not self.is_runnable(held.request), f"{held.request.id!r} is held, and an instance could run it"
        assert self.suspects <= self.instances.keys(), "a suspect that is gone"
        assert self.silent <= self.instances.keys(), "a silent one that is gone"
        assert all(attempt.state is AttemptState.OVER for attempt in self.ended), "one that ended is not over"
        due = {(request_id, number) for _, request_id, number in self.assumed}
        for request_id, attempt in self.attempts.items():
            unseen = attempt.state is AttemptState.PREFILLING and not attempt.request.streams
            assert not unseen or (request_id, attempt.number) in due, f"the prefill of {request_id!r} never ends"
        leases = {i: a.lease for i, a in self.attempts.items() if a.lease is not None and not a.started}
        assert all((a.lease is not None) is (a.request.leg is Leg.DECODE) for a in booked), "leases of decode legs"
        for view in views:
            lent = {i for i, lease in leases.items() if self.leasing(lease) is view}
            assert view.booked.lent.keys() == lent, f"prompts that {view.instance_id!r} keeps for others"
        ready = [v for v in views if not v.draining]
        self.loads.check(ready, sum(len(v.waiting) for v in views))
        self.offers.check({v.instance_id: v.offer for v in ready})
        self.holders.check({view.bit: (view.instance_id, view.cache.blocks()) for view in views})
        self.time_outs.check()
        self.long_waits.check()
        self.sessions.check()
        if isinstance(self.policy, DualMap):
            self.policy.check()
