"""What the gateway counts, and how Prometheus sees it. On the request path a count is an integer; names, labels and the
core's own numbers are put together when they are scraped."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from itertools import product
from typing import cast

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from dualmap.router.observe.instance_states import InstanceState
from dualmap.router.observe.latencies import LatencyTable, latency_metrics
from dualmap.router.observe.reloads import Reloads
from dualmap.scheduler.commands import RejectReason
from dualmap.scheduler.core import Scheduler
from dualmap.scheduler.events import FailureCause
from dualmap.scheduler.fleet.fleet_event import EventKind
from dualmap.scheduler.fleet.member import Member, Membership, MemberState
from dualmap.scheduler.fleet.messages import PoolPlan
from dualmap.scheduler.request import ChoiceReason
from dualmap.scheduler.role import Role
from dualmap.scheduler.tiers import TIERS

Gauges = Mapping[str, tuple[str, float]]  # by name without prefix: documentation and value


class Outcome(StrEnum):
    """How a request ended. Values are metric labels."""

    OK = "ok"
    CLIENT_ERROR = "client_error"  # answered with 4xx other than a rejection, by the gateway or the instance
    INSTANCE_ERROR = "instance_error"  # the instance answered with 5xx, which was relayed
    FAILED = "failed"  # its attempt broke, nothing had been sent: 502 or 504
    FAILED_STREAM = "failed_stream"  # its attempt broke in mid-answer
    CANCELLED = "cancelled"  # the client left
    REJECTED_NO_INSTANCE = "rejected_no_instance"
    REJECTED_QUEUE_FULL = "rejected_queue_full"
    REJECTED_QUEUE_TIMEOUT = "rejected_queue_timeout"
    REJECTED_FIRST_TOKEN_TIMEOUT = "rejected_first_token_timeout"
    REJECTED_ATTEMPTS_EXHAUSTED = "rejected_attempts_exhausted"


class Continuation(StrEnum):
    """What became of a stream whose instance failed it in mid-answer. Values are metric labels."""

    WENT_ON = "went_on"  # another instance has gone on with it
    NO_ROOM = "no_room"  # no instance had room for the rest in time
    FAILED = "failed"  # each instance that tried the rest failed before its first token
    NOT_EXACT = "not_exact"  # no other instance can go on with it, as the client was told


class Told(StrEnum):
    """What an instance tells of a prompt that it has computed for another. Values are metric labels."""

    WHERE = "where"  # where it is to be fetched
    NOTHING = "nothing"  # the other one computes it again


REJECTIONS = {reason: Outcome(f"rejected_{reason}") for reason in RejectReason}


class GatewayMetrics:
    """Counted by the gateway: attributes, in seconds and tokens. Read at the scrape: what `bind` names. A Collector by
    its method: a subclass cannot be compiled."""

    def __init__(self) -> None:
        self.outcomes = dict.fromkeys(Outcome, 0)
        self.choices = dict.fromkeys(ChoiceReason, 0)
        self.failures = dict.fromkeys(FailureCause, 0)
        self.continuations: Counter[tuple[FailureCause, Continuation]] = Counter()
        self.handoffs = dict.fromkeys(Told, 0)
        self.latencies = LatencyTable()
        self.prompt_tokens = 0
        self.cached_prompt_tokens = 0
        self.believed_prompt_tokens = 0
        self.believed_cached_tokens = 0
        self.believed_loaded_tokens = dict.fromkeys(TIERS, 0)
        self.output_tokens = 0
        self.relayed_pieces = 0
        self.reloads = Reloads()
        self.registry = CollectorRegistry()
        self._schedulers: Mapping[str, Scheduler] = {}  # by pool
        self._membership: Callable[[], Membership] = Membership
        self._gauges: Callable[[], Gauges] = dict
        self._signal_ages: Callable[[], Mapping[str, Mapping[str, float]]] = dict
        self._tokenized: Callable[[], Mapping[str, int]] | None = None
        self._plans: Callable[[], Sequence[PoolPlan]] = tuple
        self._states: Callable[[], Mapping[str, InstanceState]] = dict
        self._events: Callable[[], Mapping[EventKind, int]] = dict
        self.registry.register(cast(Collector, self))
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)

    def bind(
        self,
        schedulers: Mapping[str, Scheduler],
        membership: Callable[[], Membership],
        gauges: Callable[[], Gauges],
        signal_ages: Callable[[], Mapping[str, Mapping[str, float]]],
        tokenized: Callable[[], Mapping[str, int]] | None = None,
        plans: Callable[[], Sequence[PoolPlan]] = tuple,
        states: Callable[[], Mapping[str, InstanceState]] = dict,
        events: Callable[[], Mapping[EventKind, int]] = dict,
    ) -> None:
        """Name what is read at each scrape. schedulers: by pool. gauges: of the gateway's own.
        signal_ages: seconds, by instance and signal. tokenized: prompts by what became of their tokens; None without a
        tokenizer. plans: of the pools that are scaled. states: by instance. events: of the fleet, by kind."""
        self._schedulers = schedulers
        self._membership = membership
        self._gauges = gauges
        self._signal_ages = signal_ages
        self._tokenized = tokenized
        self._plans = plans
        self._states = states
        self._events = events

    def scrape(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)

    def collect(self) -> Iterator[Metric]:
        yield _counter("dualmap_requests", "Requests by how they ended.", "outcome", self.outcomes.items())
        yield _counter(
            "dualmap_choices", "Dispatches by why their instance was chosen.", "reason", self.choices.items()
        )
        yield _counter(
            "dualmap_failed_attempts", "Attempts that an instance failed, by cause.", "cause", self.failures.items()
        )
        yield _continuations(self.continuations)
        yield _counter(
            "dualmap_prefill_handoffs",
            "Prompts that an instance computed for another, by what it told of where they are to be fetched.",
            "told",
            self.handoffs.items(),
        )
        yield from latency_metrics(self.latencies.by_model)
        for name, documentation in (
            ("prompt_tokens", "Prompt tokens, as instances count them."),
            ("cached_prompt_tokens", "Prompt tokens that instances found in a prefix cache."),
            ("believed_prompt_tokens", "Dispatched prompt tokens, as counted before the instance did."),
            ("believed_cached_tokens", "Dispatched prompt tokens believed to be cached."),
            ("output_tokens", "Tokens of complete answers."),
            ("relayed_pieces", "Pieces of answers relayed, about one a token."),
        ):
            yield CounterMetricFamily(f"dualmap_{name}", documentation, value=getattr(self, name))
        loaded = CounterMetricFamily(
            "dualmap_believed_loaded_tokens",
            "Of the prompt tokens believed to be cached, those in a tier behind the KV pool, by tier.",
            labels=["tier"],
        )
        for tier, tokens in self.believed_loaded_tokens.items():
            loaded.add_metric([tier], tokens)
        yield loaded
        for name, (documentation, value) in self._gauges().items():
            yield GaugeMetricFamily(f"dualmap_{name}", documentation, value=value)
        if self._tokenized is not None:
            outcomes = CounterMetricFamily(
                "dualmap_tokenized_prompts",
                "Prompts by whether their tokens were found, or why not.",
                labels=["outcome"],
            )
            for outcome, count in self._tokenized().items():
                outcomes.add_metric([outcome], count)
            yield outcomes
        yield _counter(
            "dualmap_fleet_events",
            "Events of the fleet that this gateway has heard of, by kind: each gateway counts all of them.",
            "kind",
            self._events().items(),
        )
        yield from _reload_metrics(self.reloads)
        ages = GaugeMetricFamily(
            "dualmap_instance_signal_age_seconds",
            "Since the instance last said something of itself, by signal.",
            labels=["instance", "signal"],
        )
        for instance_id, signals in self._signal_ages().items():
            for signal, age_s in signals.items():
                ages.add_metric([instance_id, signal], age_s)
        yield ages
        yield from _membership_metrics(self._membership(), self._schedulers)
        yield _instance_states(self._states(), self._membership())
        yield _replicas(self._plans())
        yield from _pool_metrics(self._schedulers)
        yield from _scheduler_metrics(self._schedulers)


def _continuations(counts: Mapping[tuple[FailureCause, Continuation], int]) -> Metric:
    family = CounterMetricFamily(
        "dualmap_continuations",
        "Streams that an instance failed in mid-answer, by why and by whether another one has gone on with them.",
        labels=["cause", "outcome"],
    )
    for cause, outcome in product(FailureCause, Continuation):  # from 0 on, so that the first one is an increase
        family.add_metric([cause.value, outcome.value], counts.get((cause, outcome), 0))
    return family


def _counter(name: str, documentation: str, label: str, values: Iterable[tuple[StrEnum, int]]) -> Metric:
    family = CounterMetricFamily(name, documentation, labels=[label])
    for key, value in values:
        family.add_metric([key.value], value)
    return family


def _membership_metrics(membership: Membership, pools: Iterable[str]) -> Iterable[Metric]:
    yield GaugeMetricFamily("dualmap_membership_epoch", "Epoch of the membership in use.", value=membership.epoch)
    members = GaugeMetricFamily(
        "dualmap_members",
        "Instances by state, and by the model that they serve; without a model: those that have not told of one yet.",
        labels=["pool", "model", "state"],
    )
    counts = Counter((member.pool, _model_of(member), member.state) for member in membership.members)
    seen = {(pool, model) for pool, model, _ in counts}
    for (pool, model), state in product(sorted(seen | {(pool, "") for pool in pools}), MemberState):
        members.add_metric([pool, model, state.value], counts[pool, model, state])
    yield members


def _model_of(member: Member) -> str:
    """The one it serves beside its adapters; of several names the first."""
    return member.models[0].name if member.models else ""


def _instance_states(states: Mapping[str, InstanceState], membership: Membership) -> Metric:
    family = GaugeMetricFamily(
        "dualmap_instance_state",
        "1 for the state that the instance is in: those of dualmap_members, and of ready ones slow and suspect.",
        labels=["pool", "instance", "state"],
    )
    pools = {member.instance_id: member.pool for member in membership.members}
    for instance_id, state in states.items():
        family.add_metric([pools.get(instance_id, ""), instance_id, state.name], 1)
    return family


def _reload_metrics(reloads: Reloads) -> Iterable[Metric]:
    family = CounterMetricFamily(
        "dualmap_config_reloads", "Changed configurations by whether they were taken over.", labels=["result"]
    )
    family.add_metric(["applied"], reloads.applied)
    family.add_metric(["refused"], reloads.refused)
    yield family
    yield GaugeMetricFamily(
        "dualmap_config_loaded_timestamp_seconds",
        "When the configuration in use was read, as Unix time.",
        value=reloads.at,
    )


def _replicas(plans: Iterable[PoolPlan]) -> Metric:
    family = GaugeMetricFamily(
        "dualmap_replicas",
        "Instances that the pool's Autoscaler wants, and the least and the most that it may; by role where roles have"
        " numbers of their own.",
        labels=["pool", "bound"],
    )
    for plan in plans:
        for bound, value in (("wanted", plan.wanted), ("least", plan.least), ("most", plan.most)):
            labels = {"pool": plan.pool, "bound": bound}
            if plan.role is not Role.BOTH:
                labels["role"] = plan.role.value
            family.add_sample(family.name, labels, value)
    return family


def _pool_metrics(schedulers: Mapping[str, Scheduler]) -> Iterable[Metric]:
    objective = GaugeMetricFamily(
        "dualmap_objective_seconds", "Time-to-first-token objective of requests that name none.", labels=["pool"]
    )
    pace = GaugeMetricFamily(
        "dualmap_output_token_objective_seconds",
        "Objective for the time per output token of requests that name none; 0: there is none.",
        labels=["pool"],
    )
    first_tokens = CounterMetricFamily(
        "dualmap_first_tokens",
        "Requests by whether their first token came within their objective; those without one missed it.",
        labels=["pool", "objective"],
    )
    answers = CounterMetricFamily(
        "dualmap_paced_answers",
        "Streams by whether their tokens came within their objective, of those that have one and ended.",
        labels=["pool", "objective"],
    )
    held = GaugeMetricFamily(
        "dualmap_held_requests", "Requests that wait for an instance that can run them to come.", labels=["pool"]
    )
    placed = CounterMetricFamily("dualmap_placed_requests", "Requests placed for the first time.", labels=["pool"])
    work = CounterMetricFamily(
        "dualmap_placed_work_tokens",
        "Prefill work of requests placed for the first time: uncached tokens, and attention counted in tokens.",
        labels=["pool"],
    )
    for pool, scheduler in schedulers.items():
        stats = scheduler.stats
        objective.add_metric([pool], scheduler.config.ttft_slo_s)
        pace.add_metric([pool], scheduler.config.tpot_slo_s)
        first_tokens.add_metric([pool, "kept"], stats.slo_kept)
        first_tokens.add_metric([pool, "missed"], stats.slo_missed)
        answers.add_metric([pool, "kept"], stats.tpot_kept)
        answers.add_metric([pool, "missed"], stats.tpot_missed)
        held.add_metric([pool], len(scheduler.held))
        placed.add_metric([pool], stats.arrived)
        work.add_metric([pool], stats.arrived_work_tokens)
    yield from (objective, pace, first_tokens, answers, held, placed, work)


def _scheduler_metrics(schedulers: Mapping[str, Scheduler]) -> Iterable[Metric]:
    stats = [scheduler.stats for scheduler in schedulers.values()]
    for name, documentation in (
        ("moves_applied", "Waiting requests moved to another instance."),
        ("requests_taken", "Waiting requests taken by an instance that would have idled."),
        ("moves_refused", "Proposed moves that were no longer possible or worth it."),
        ("late_events", "Events for what was already over."),
        ("retries", "Attempts after a request's first."),
    ):
        yield CounterMetricFamily(f"dualmap_{name}", documentation, value=sum(getattr(s, name) for s in stats))
    labels = [(pool, id_) for pool, scheduler in schedulers.items() for id_ in scheduler.instances]
    views = [view for scheduler in schedulers.values() for view in scheduler.instances.values()]
    gauges: tuple[tuple[str, str, Sequence[float]], ...] = (
        ("waiting_requests", "Requests waiting in the gateway for it.", [v.waiting_count for v in views]),
        ("running_requests", "Requests dispatched to it and not ended.", [v.running_count for v in views]),
        ("waiting_tokens", "Prefill work that waits in the gateway, in tokens.", [v.waiting_tokens for v in views]),
        ("prefill_tokens", "Prefill work sent and not done, in tokens.", [v.booked_prefill_tokens for v in views]),
        ("kv_tokens", "KV cache booked by what runs there.", [v.booked_kv_tokens for v in views]),
        ("cached_blocks", "Blocks of prompts that it is believed to hold.", [len(v.cache) for v in views]),
        (
            "foreign_requests",
            "Requests there that no gateway has sent.",
            [v.reported.foreign.requests for v in views],
        ),
        ("prefill_seconds_per_token", "Learned time of a token of prefill work.", [v.seconds_per_token for v in views]),
        (
            "output_token_seconds",
            "Estimated time per output token if one more request ran; 0: not known yet.",
            [v.room.tpot_with(0) for v in views],
        ),
    )
    for name, documentation, values in gauges:
        family = GaugeMetricFamily(f"dualmap_instance_{name}", documentation, labels=["pool", "instance"])
        for label, gauge in zip(labels, values, strict=True):
            family.add_metric(label, gauge)
        yield family
