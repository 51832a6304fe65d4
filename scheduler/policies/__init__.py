"""DualMap and the policies it is compared with, one file each, behind the interface of scheduler/placement.py."""

from collections.abc import Callable

from dualmap.scheduler.answer_lengths import AnswerLengths
from dualmap.scheduler.config import SchedulerConfig, add_policy_name
from dualmap.scheduler.errors import ConfigError
from dualmap.scheduler.holders import Holders
from dualmap.scheduler.instance.view import InstanceView
from dualmap.scheduler.load_order import LoadOrder
from dualmap.scheduler.offers import Offers
from dualmap.scheduler.placement import Policy
from dualmap.scheduler.policies.cache_affinity import CacheAffinity
from dualmap.scheduler.policies.cache_aware import CacheAware
from dualmap.scheduler.policies.cache_aware_balanced import CacheAwareBalanced
from dualmap.scheduler.policies.chwbl import Chwbl
from dualmap.scheduler.policies.dualmap import DualMap
from dualmap.scheduler.policies.dualmap_paper import DualMapPaper, as_published
from dualmap.scheduler.policies.dynamo_kv import DynamoKv
from dualmap.scheduler.policies.least_loaded import LeastLoaded
from dualmap.scheduler.policies.llm_d import LlmD
from dualmap.scheduler.policies.llm_d_optimized import LlmDOptimized
from dualmap.scheduler.policies.llm_d_precise import LlmDPrecise
from dualmap.scheduler.policies.lmetric import LMetric
from dualmap.scheduler.policies.min_ttft import MinTtft
from dualmap.scheduler.policies.power_of_two import PowerOfTwo
from dualmap.scheduler.policies.preble_e2 import PrebleE2
from dualmap.scheduler.policies.ramjet import Ramjet
from dualmap.scheduler.policies.ray_prefix_affinity import RayPrefixAffinity
from dualmap.scheduler.policies.round_robin import RoundRobin
from dualmap.scheduler.policies.smetric import SMetric
from dualmap.scheduler.policies.sticky_bounded import StickyBounded
from dualmap.scheduler.policies.two_tier import TwoTier
from dualmap.scheduler.sessions import Sessions

PolicyFactory = Callable[[SchedulerConfig], Policy]

PEERS: dict[str, PolicyFactory] = {
    "dualmap_paper": DualMapPaper,
    "round_robin": lambda config: RoundRobin(),
    "least_loaded": lambda config: LeastLoaded(),
    "power_of_two": lambda config: PowerOfTwo(),
    "cache_affinity": CacheAffinity,
    "chwbl": lambda config: Chwbl(),
    "cache_aware": lambda config: CacheAware(),
    "preble_e2": PrebleE2,
    "min_ttft": lambda config: MinTtft(),
    "dynamo_kv": DynamoKv,
    "llm_d": lambda config: LlmD(),
    "lmetric": LMetric,
    "ray_prefix_affinity": lambda config: RayPrefixAffinity(),
    "llm_d_precise": lambda config: LlmDPrecise(),
    "llm_d_optimized": LlmDOptimized,
    "ramjet": Ramjet,
    "smetric": lambda config: SMetric(),
    "two_tier": lambda config: TwoTier(),
    "sticky_bounded": StickyBounded,
    "cache_aware_balanced": CacheAwareBalanced,
}

REGISTERED: dict[str, PolicyFactory] = {}  # by the driver, before a configuration names them


def register_policy(name: str, make: PolicyFactory) -> None:
    """Let `SchedulerConfig.policy` be `name`; each core then calls `make(config)` once. A name that was registered
    before gets the later factory. Raises ConfigError for a name that DualMap uses."""
    add_policy_name(name)
    REGISTERED[name] = make


def make_policy(
    config: SchedulerConfig,
    holders: Holders,
    loads: LoadOrder[InstanceView],
    offers: Offers,
    answers: AnswerLengths,
    sessions: Sessions,
) -> Policy:
    if config.policy == "dualmap":
        return DualMap(config, holders, loads, offers, answers, sessions)
    make = PEERS.get(config.policy) or REGISTERED.get(config.policy)
    if make is None:  # the configuration was checked in another process
        raise ConfigError(f"policy {config.policy!r} is not registered in this process")
    return make(config)


def configured_for(config: SchedulerConfig) -> SchedulerConfig:
    """What the core does for the policy besides asking it."""
    return as_published(config) if config.policy == "dualmap_paper" else config
