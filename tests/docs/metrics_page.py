"""The page of all metrics, made from a gateway that has something to say in each."""

from types import SimpleNamespace
from typing import Any

from dualmap.router.gateway.gateway import Gateway
from dualmap.router.gateway.pool import Pool
from dualmap.router.http.limits import HttpLimits
from dualmap.router.observe.metrics import GatewayMetrics
from dualmap.scheduler import InstanceCapacity, Scheduler, SchedulerConfig
from dualmap.scheduler.fleet.endpoint import Endpoint
from dualmap.scheduler.fleet.member import Member, Membership, MemberState
from dualmap.scheduler.fleet.messages import GatewayState, PoolPlan
from dualmap.scheduler.fleet.signals import InstanceSignals, KvEventState, LoadSample, SignalNews
from dualmap.scheduler.role import Role

HEAD = """# Metrics
Each gateway serves these on its admin port, `GET /metrics`, in Prometheus' text format, beside those of its process
(`process_*`, `python_*`). Counters and histograms may be summed over gateways; gauges of instances are what one
gateway has booked, their pace what it has learned. `make reference` writes this page.

| metric | type | labels | what |
|---|---|---|---|
"""


async def metrics_page() -> str:
    metrics = GatewayMetrics()
    metrics.latencies.of("", "")
    pool = Pool("", Scheduler(SchedulerConfig()))
    tokens: Any = SimpleNamespace(exact=0, fallbacks={})
    gateway = Gateway([pool], HttpLimits(), metrics, block_tokens=512, tokens=tokens)
    member = Member("i0", 1, Endpoint("127.0.0.1", 1), state=MemberState.READY, capacity=InstanceCapacity())
    gateway.apply_membership(Membership(1, (member,)))
    gateway.note_fleet((GatewayState("gateway-0", 1, "", age_s=0.0),), (PoolPlan("", 2, 1, most=4, role=Role.PREFILL),))
    signals = InstanceSignals("i0", LoadSample(1, 0, 0.5), 0.0, kv_events=KvEventState(True, 1, age_s=1.0))
    gateway.hear(SignalNews(1, (signals,), ()))
    rows = []
    for family in metrics.collect():
        labels = sorted({name for sample in family.samples for name in sample.labels} - {"le"})
        total = "_total" if family.type == "counter" else ""
        shown = ", ".join(f"`{name}`" for name in labels)
        rows.append(f"| `{family.name}{total}` | {family.type} | {shown} | {family.documentation} |")
    return HEAD + "\n".join(sorted(rows)) + "\n"
