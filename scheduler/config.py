"""Everything that can be set in the core. Each default works; each technique has its own switch, for ablation."""

import re
from dataclasses import dataclass
from difflib import get_close_matches

from dualmap.scheduler.errors import ConfigError

POLICY_NAMES = (
    "dualmap",
    "round_robin",
    "least_loaded",
    "power_of_two",
    "cache_affinity",
    "chwbl",
    "cache_aware",
    "preble_e2",
    "min_ttft",
    "dynamo_kv",
    "llm_d",
    "lmetric",
    "ray_prefix_affinity",
    "llm_d_precise",
    "llm_d_optimized",
    "ramjet",
    "smetric",
    "two_tier",
    "sticky_bounded",
    "cache_aware_balanced",
    "dualmap_paper",
)

_REGISTERED: dict[str, None] = {}  # names besides these, in the order in which they came


def policy_names() -> tuple[str, ...]:
    """The names that `SchedulerConfig.policy` may have: POLICY_NAMES, and what `register_policy` was told."""
    return (*POLICY_NAMES, *_REGISTERED)


def add_policy_name(name: str) -> None:
    """For `register_policy`. Raises ConfigError for a name that DualMap uses, or that no option could name."""
    if name in POLICY_NAMES:
        raise ConfigError(f"policy {name!r} is DualMap's own: yours needs another name")
    if not re.fullmatch(r"[A-Za-z0-9_.-]+", name):
        raise ConfigError(f"the name of a policy has letters, digits, '_', '.' and '-' only, not {name!r}")
    _REGISTERED[name] = None


def nearest_policy(name: str) -> str:
    """` (did you mean NAME?)`; empty where no name is like it."""
    nearest = get_close_matches(name, policy_names(), n=1)
    return f" (did you mean {nearest[0]}?)" if nearest else ""


# What the default policy's core takes over while it runs: it reads these anew for each decision.
LIVE_SETTINGS = (
    "ttft_slo_s",
    "tpot_slo_s",
    "slo_aware",
    "rebalancing",
    "find_holders",
    "escape",
    "taking",
    "recompute_price_idle",
    "recompute_price_busy",
    "hot_slo_fraction",
    "escape_slo_fraction",
    "max_moves",
    "max_moves_per_request",
    "min_move_gain_s",
    "decode_s_per_request",
    "release_window_s",
    "min_prefill_leg_tokens",
    "kv_lease_s",
    "max_waiting",
    "max_in_flight",
    "cold_start_timeout_s",
    "max_attempts",
    "suspect_s",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerConfig:
    """Raises ConfigError with field, rule and value."""

    policy: str = "dualmap"  # chooses instances; others are there to compare with (scheduler/policies), or installed
    ttft_slo_s: float = 5.0  # objective for the first token of requests that name none (arXiv 2602.06502, section 4.1)
    # Objective for the mean time per output token after the first, for requests that name none; 0: there is none.
    tpot_slo_s: float = 0.0
    block_tokens: int = 512  # unit of prefix identity; finer finds little more and costs more per decision

    # The five techniques.
    dual_mapping: bool = True  # two rings name two candidates; off: one ring, one candidate
    adaptive_key: bool = True  # a hot prefix gets a longer key; off: the key is always the first key_blocks blocks
    slo_aware: bool = True  # the estimated time decides, too; off: always the candidate with the longer cached prefix
    gateway_queue: bool = True  # requests wait in the gateway; off: in the instance, where they cannot move
    rebalancing: bool = True  # waiting requests leave hot instances; off: what waits stays where it was placed

    # What is added to them.
    find_holders: bool = True  # who holds the prefix is a candidate; off: only if the rings name it
    escape: bool = True  # the least loaded instance is a candidate; off: only if the rings name it
    deadline_order: bool = True  # queues keep objectives; off: first come, first served
    taking: bool = True  # idle instances take what waits elsewhere; off: they idle until a request is placed there

    adapter_load_s: float = 0.2  # what a request waits where its LoRA adapter has to be loaded first
    virtual_nodes: int = 128  # points per instance of weight 1 on each ring: about 9 % spread of arc length
    key_blocks: int = 1  # depth of a key before any deepening
    max_key_blocks: int = 512  # deepening stops here: a longer common prefix is not compared

    # Seconds of waiting that leaving a cached prefix must save for each second of recomputation it causes, on an idle
    # cluster.
    recompute_price_idle: float = 2.0
    recompute_price_busy: float = 32.0  # and on a busy one, where that second delays all who wait there
    # An instance is hot when its backlog is above this share of the SLO. The paper's half (arXiv 2602.06502, section
    # 3.4) moves requests that would have kept the SLO anyway, and their prefixes are computed twice.
    hot_slo_fraction: float = 1.0
    # A third instance takes over only with a backlog below this share: on a loaded cluster it would only get hot, too.
    escape_slo_fraction: float = 0.2
    max_moves: int = 16  # per plan, so that one bad estimate cannot empty a queue
    max_moves_per_request: int = 2  # while it waits, so that a request cannot wander
    min_move_gain_s: float = 0.1  # what a move must save: below the error of the estimates a move is noise

    # What each request that runs at an instance adds to the time of a new one there and, through it, of the others, for
    # each token of the answer: twice the time to read one request's KV cache, 57 KB x 8,000 tokens at 1.5 TB/s.
    decode_s_per_request: float = 0.0006

    # The next prompt is sent when the instance has less prefill work than this. The engine shares a step among all the
    # prompts it has, and all of them wait for its end: one after the other, each has its first token sooner. But each
    # step of its own delays all who decode there, so short prompts go together.
    release_window_s: float = 0.4
    # Where some instances prefill and others decode: so many tokens of a prompt have to be computed, at the least, for
    # another instance to do that than the one that answers. None: where it costs less than to hold up who decodes.
    min_prefill_leg_tokens: int | None = None
    # For so long a computed prompt is sure to wait for who fetches it. vLLM keeps it for 30 s (kv_lease_duration), and
    # whoever fetches it later answers from what is there by then, without an error.
    kv_lease_s: float = 20.0
    # Tiers behind the KV pools that all instances of a model read, as KV events name them (cpu, storage, remote, ...):
    # what one instance has put there is worth the same at each.
    shared_media: tuple[str, ...] = ()
    # How much later than it came a prompt takes its place in the queue, in units of its own prefill time.
    length_handicap: float = 2.0
    # Who cannot meet the objective any more is served behind the others, but starts after so many objectives at the
    # latest. Higher keeps more requests within the objective under overload, lower shortens the tail.
    patience_slos: float = 2.4
    max_waiting: int = 4096  # requests waiting in the gateway for one instance
    max_in_flight: int = 65_536  # requests known to the core
    queue_timeout_s: float = 120.0  # nobody waits longer in the gateway whose client names no time-out of its own
    # A request that no instance can run, since none is there or ready, waits so long for one that can; 0: it is refused
    # at once. None: 300 where scaling.min_replicas is 0, else 0.
    cold_start_timeout_s: float | None = None
    max_attempts: int = 3  # instances tried before the first token
    # An instance that joins others at work is given load by and by: its caches are empty, its first steps may be slow.
    slow_start_s: float = 10.0
    suspect_s: float = 1.0  # an instance that refused a connection is left alone this long, unless no other is left

    def __post_init__(self) -> None:
        if self.policy not in POLICY_NAMES and self.policy not in _REGISTERED:
            known = ", ".join(policy_names()) + nearest_policy(self.policy)
            raise ConfigError(f"policy must be one of {known}, not {self.policy!r}")
        positive = (
            "ttft_slo_s block_tokens virtual_nodes key_blocks max_key_blocks max_moves max_moves_per_request"
            " release_window_s max_waiting max_in_flight queue_timeout_s max_attempts patience_slos kv_lease_s"
        )
        for name in positive.split():
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} must be greater than 0, not {getattr(self, name)!r}")
        for name in (
            "tpot_slo_s",
            "min_move_gain_s",
            "recompute_price_idle",
            "recompute_price_busy",
            "suspect_s",
            "slow_start_s",
            "adapter_load_s",
            "length_handicap",
            "decode_s_per_request",
        ):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"{name} must be at least 0, not {getattr(self, name)!r}")
        for name in ("cold_start_timeout_s", "min_prefill_leg_tokens"):
            if getattr(self, name) is not None and not getattr(self, name) >= 0:
                raise ConfigError(f"{name} must be at least 0, not {getattr(self, name)!r}")
        for name in ("hot_slo_fraction", "escape_slo_fraction"):
            if not 0 < getattr(self, name) <= 1:
                raise ConfigError(f"{name} must be greater than 0 and at most 1, not {getattr(self, name)!r}")
        for medium in self.shared_media:
            if not re.fullmatch(r"[a-z0-9_.-]+", medium) or medium == "gpu":
                raise ConfigError(f"shared_media names tiers in lower case (cpu, storage, remote), not {medium!r}")
        if self.max_key_blocks < self.key_blocks:
            raise ConfigError(
                f"max_key_blocks must be at least key_blocks={self.key_blocks}, not {self.max_key_blocks}"
            )
