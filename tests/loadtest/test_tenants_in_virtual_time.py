"""What a tenant notices of another that floods the cluster, in virtual time. Nothing is cached, so that each prompt is
its own work; a token takes 0.16 ms."""

import random
from itertools import count
from math import inf

import pytest

from instances.engine_profile import EngineProfile
from loadtest.cluster_settings import ClusterSettings, InstanceSpec
from loadtest.virtual_cluster import VirtualCluster
from loadtest.workload import Workload, WorkRequest
from scheduler.config import SchedulerConfig
from scheduler.request import Request

PROFILE = EngineProfile()
LONGEST_TOKENS = 8000

Arrival = tuple[float, str, int, int]  # seconds, tenant, prompt and answer in tokens


def arrivals(
    tenant: str,
    instances_worth: float,
    prompt_tokens: tuple[int, int],
    output_tokens: tuple[int, int],
    seed: int,
    duration_s: float = 240.0,
) -> list[Arrival]:
    """At random, and so many that their prompts are all that so many instances compute."""
    rng = random.Random(f"{tenant}-{seed}")
    rate = instances_worth / PROFILE.prefill_s_per_token / (sum(prompt_tokens) / 2)
    found: list[Arrival] = []
    now = rng.expovariate(rate)
    while now < duration_s:
        found.append((now, tenant, rng.randint(*prompt_tokens), rng.randint(*output_tokens)))
        now += rng.expovariate(rate)
    return found


def p90_ttft_s(*streams: list[Arrival], of: str, instances: int = 1, told_apart: bool = True) -> float:
    """Rejected requests count as never answered."""
    numbers = count(1)
    requests = []
    ordered = sorted(arrival for stream in streams for arrival in stream)
    for index, (at_s, tenant, prompt_tokens, output_tokens) in enumerate(ordered):
        blocks = tuple(next(numbers) for _ in range(prompt_tokens // 512))
        told = Request(str(index), blocks, prompt_tokens, output_tokens, tenant=tenant if told_apart else "")
        requests.append(WorkRequest(at_s, prompt_tokens, output_tokens, blocks, session=index, told=told))
    specs = [InstanceSpec(f"i{number}", PROFILE) for number in range(instances)]
    done = VirtualCluster(Workload("tenants", requests), ClusterSettings(SchedulerConfig(), specs)).run()
    ttfts_s = sorted(
        outcome.first_token_s - outcome.arrived_s if outcome.ok else inf
        for outcome, arrival in zip(done.outcomes, ordered, strict=True)
        if arrival[1] == of
    )
    return ttfts_s[int(0.9 * len(ttfts_s))]


CHATS = ((200, 1800), (50, 400))
QUIET = ((2000, LONGEST_TOKENS), (50, 300))


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_flood_of_chats_makes_a_quiet_tenant_wait_by_less_than_a_third(seed: int) -> None:
    quiet = arrivals("quiet", 0.15, *QUIET, seed)
    flood = arrivals("flood", 3.0, *CHATS, seed)
    assert p90_ttft_s(quiet, flood, of="quiet") <= 1.3 * p90_ttft_s(quiet, of="quiet")


def test_without_tenants_the_quiet_one_drowns_in_the_flood() -> None:
    quiet = arrivals("quiet", 0.15, *QUIET, 1)
    flood = arrivals("flood", 3.0, *CHATS, 1)
    assert p90_ttft_s(quiet, flood, of="quiet", told_apart=False) > 10 * p90_ttft_s(quiet, of="quiet")


@pytest.mark.parametrize("seed", [1, 2])
def test_where_there_are_several_instances_it_waits_by_less_than_a_third_too(seed: int) -> None:
    quiet = arrivals("quiet", 0.6, *QUIET, seed, 120.0)
    flood = arrivals("flood", 12.0, *CHATS, seed, 120.0)
    alone_s = p90_ttft_s(quiet, of="quiet", instances=4)
    assert p90_ttft_s(quiet, flood, of="quiet", instances=4) <= 1.3 * alone_s


@pytest.mark.parametrize("output_tokens", [(50, 400), (1000, 3000)])
def test_neither_long_prompts_nor_long_answers_of_a_flood_add_more_than_one_prompt_in_progress(
    output_tokens: tuple[int, int],
) -> None:
    """A prompt that the instance computes cannot be interrupted; answers leave places and KV cache for others."""
    quiet = arrivals("quiet", 0.15, *QUIET, 1)
    flood = arrivals("flood", 3.0, QUIET[0], output_tokens, 1)
    longest_s = LONGEST_TOKENS * PROFILE.prefill_s_per_token
    assert p90_ttft_s(quiet, flood, of="quiet") <= p90_ttft_s(quiet, of="quiet") + longest_s
