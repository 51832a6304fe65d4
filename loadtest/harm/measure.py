"""What one policy makes of a case."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dualmap.loadtest.harm.case import Case
from dualmap.loadtest.harm.case_cluster import cluster_of
from dualmap.loadtest.harm.case_sessions import workload_of
from dualmap.loadtest.traces.describe import quantile
from dualmap.loadtest.traces.workload import Workload
from dualmap.loadtest.virtual.cluster import VirtualCluster
from dualmap.loadtest.virtual.cluster_run import ClusterRun, RequestOutcome

WARMUP_SHARE = 0.2  # of the requests: caches fill meanwhile, and they are not counted
FAILED_S = 3600.0  # what a failed request counts as having taken: longer than anybody waits
LEAST_PACES = 20  # with fewer answers of two tokens and more, their P90 says nothing


@dataclass(frozen=True, slots=True)
class Measures:
    """Times in seconds, of the requests after the warm-up; tpot_p90_s: of the mean gap between the tokens of a request,
    None where hardly an answer has two. attainment: share of requests within the objective for the first token.
    load_skew: requests of the instance that had most of them, over the mean. hit_rate: of prompt tokens."""

    ttft_p50_s: float
    ttft_p90_s: float
    ttft_p99_s: float
    e2e_p50_s: float
    tpot_p90_s: float | None
    attainment: float
    load_skew: float
    hit_rate: float
    failed: int


def measure(case: Case, policy: str, wrap: Callable[[Any], Any] = lambda core: core) -> Measures:
    """wrap: as VirtualCluster's."""
    workload = workload_of(case)
    return measured(case, workload, VirtualCluster(workload, cluster_of(case, policy), wrap=wrap).run())


def measured(case: Case, workload: Workload, done: ClusterRun) -> Measures:
    first = int(WARMUP_SHARE * len(workload.requests))
    pairs = list(zip(workload.requests[first:], done.outcomes[first:], strict=True))
    outcomes = [outcome for _, outcome in pairs]
    ttfts_s = sorted(o.first_token_s - o.arrived_s if o.ok else FAILED_S for o in outcomes)
    e2es_s = sorted(o.finished_s - o.arrived_s if o.ok else FAILED_S for o in outcomes)
    paces_s = sorted(_pace_s(o, r.output_tokens) for r, o in pairs if r.output_tokens > 1)
    served = Counter(outcome.instance_id for outcome in outcomes)
    return Measures(
        ttft_p50_s=round(quantile(ttfts_s, 0.5), 5),
        ttft_p90_s=round(quantile(ttfts_s, 0.9), 5),
        ttft_p99_s=round(quantile(ttfts_s, 0.99), 5),
        e2e_p50_s=round(quantile(e2es_s, 0.5), 5),
        tpot_p90_s=round(quantile(paces_s, 0.9), 6) if len(paces_s) >= LEAST_PACES else None,
        attainment=sum(ttft_s <= case.slo_s for ttft_s in ttfts_s) / len(pairs),
        load_skew=round(max(served.values()) * case.instances / len(pairs), 3),
        hit_rate=round(sum(o.cached_tokens for o in outcomes) / sum(r.prompt_tokens for r, _ in pairs), 3),
        failed=sum(not outcome.ok for outcome in outcomes),
    )


def _pace_s(outcome: RequestOutcome, output_tokens: int) -> float:
    return (outcome.finished_s - outcome.first_token_s) / (output_tokens - 1) if outcome.ok else FAILED_S
