"""DualMap and the policies it is compared with, one file each, behind the interface of scheduler/placement.py."""

from collections.abc import Callable

from scheduler.answer_lengths import AnswerLengths
from scheduler.config import SchedulerConfig
from scheduler.holders import Holders
from scheduler.load_order import LoadOrder
from scheduler.placement import Policy
from scheduler.policies.cache_affinity import CacheAffinity
from scheduler.policies.cache_aware import CacheAware
from scheduler.policies.cache_aware_balanced import CacheAwareBalanced
from scheduler.policies.chwbl import Chwbl
from scheduler.policies.dualmap import DualMap
from scheduler.policies.dualmap_paper import DualMapPaper, as_published
from scheduler.policies.dynamo_kv import DynamoKv
from scheduler.policies.least_loaded import LeastLoaded
from scheduler.policies.llm_d import LlmD
from scheduler.policies.llm_d_optimized import LlmDOptimized
from scheduler.policies.llm_d_precise import LlmDPrecise
from scheduler.policies.lmetric import LMetric
from scheduler.policies.min_ttft import MinTtft
from scheduler.policies.power_of_two import PowerOfTwo
from scheduler.policies.preble_e2 import PrebleE2
from scheduler.policies.ramjet import Ramjet
from scheduler.policies.ray_prefix_affinity import RayPrefixAffinity
from scheduler.policies.round_robin import RoundRobin
from scheduler.policies.smetric import SMetric
from scheduler.policies.sticky_bounded import StickyBounded
from scheduler.policies.two_tier import TwoTier

PEERS: dict[str, Callable[[SchedulerConfig], Policy]] = {
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


def make_policy(config: SchedulerConfig, holders: Holders, loads: LoadOrder, answers: AnswerLengths) -> Policy:
    if config.policy == "dualmap":
        return DualMap(config, holders, loads, answers)
    return PEERS[config.policy](config)


def configured_for(config: SchedulerConfig) -> SchedulerConfig:
    """What the core does for the policy besides asking it."""
    return as_published(config) if config.policy == "dualmap_paper" else config
