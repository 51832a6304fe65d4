"""A live run once more in virtual time: the arrivals of its journal, the same core, engines like its instances."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from statistics import median_low

from dualmap.instances.simulated.apis.call import Call
from dualmap.instances.simulated.apis.chat import read_chat
from dualmap.instances.simulated.engine_profile import EngineProfile
from dualmap.instances.simulated.media import MediaTokens
from dualmap.instances.simulated.served import Models, Served
from dualmap.loadtest.experiments.decided import Decided, decided
from dualmap.loadtest.histories.recorder import Recorder
from dualmap.loadtest.replay.request_body import CHAT_PATH, RequestBytes
from dualmap.loadtest.traces.trace import TraceRequest
from dualmap.loadtest.traces.workload import Workload, WorkRequest
from dualmap.loadtest.virtual.cluster import TICK_S, VirtualCluster
from dualmap.loadtest.virtual.cluster_settings import ClusterSettings, InstanceSpec
from dualmap.router.journal.format import Record
from dualmap.scheduler.config import SchedulerConfig
from dualmap.scheduler.events import InstanceJoined, MovesProposed, Tick

NETWORK_S = 0.0005  # each way: a connection of this machine, and the handling of what came
AFTER_S = 10.0  # plans go on beyond the end of the record, should virtual time need longer


def run_again(
    records: Sequence[Record],
    config: SchedulerConfig,
    profile: EngineProfile,
    traced: Mapping[str, TraceRequest],
    model: str,
    network_s: float = NETWORK_S,
) -> dict[str, Decided]:
    """What is decided of the journal's requests in virtual time, by their ids in the journal.

    profile: of each instance. traced: what was sent, by the same ids. All were sent as replay/process.py sends a chat,
    to the model of that name; times are the journal's. Arrivals, ticks and plans come when they did: they are the
    clock's doing, not the policy's, and on a loaded cluster who is asked a moment sooner decides what moves.
    """
    live = decided(records)
    start_s = records[0].t
    body = RequestBytes("instance", CHAT_PATH, model)
    requests = [
        _work_request(str(index), one, traced[request_id], body, model, profile, one.arrived_s - start_s)
        for index, (request_id, one) in enumerate(live.items())
    ]
    specs = [
        InstanceSpec(record.event.instance_id, profile, record.event.capacity)
        for record in records
        if isinstance(record.event, InstanceJoined)
    ]
    recorders: list[Recorder] = []

    def wrap(core: object) -> Recorder:
        recorders.append(Recorder(core))
        return recorders[-1]

    ticks = [record.t - start_s for record in records if isinstance(record.event, Tick)]
    plans = [when - start_s for when in planning_times(records)]
    settings = ClusterSettings(config, specs, network_s=network_s, ticks=ticks, plans=plans)
    cluster = VirtualCluster(Workload("recorded", requests, config.block_tokens), settings, wrap)
    cluster.run()
    again = decided(recorders[0].records)
    return {
        request_id: _shifted(again[str(index)], start_s) for index, request_id in enumerate(live) if str(index) in again
    }


def planning_times(records: Sequence[Record]) -> list[float]:
    """When the gateway asked for moves: it does so all the time, but only while an instance is hot is that on record.
    Between, before and after it is taken to have gone on with the same period."""
    seen = [record.t for record in records if isinstance(record.event, MovesProposed)]
    gaps_s = [later - earlier for earlier, later in pairwise(seen)]
    period_s = min(median_low(gaps_s), 2 * TICK_S) if gaps_s else TICK_S
    found = [seen[0] if seen else records[0].t]
    while found[0] - period_s >= records[0].t:
        found.insert(0, found[0] - period_s)
    for gap_s in gaps_s:
        steps = max(round(gap_s / period_s), 1)
        found += [found[-1] + gap_s / steps * number for number in range(1, steps + 1)]
    while found[-1] < records[-1].t + AFTER_S:
        found.append(found[-1] + period_s)
    return found


def _work_request(
    place: str,
    one: Decided,
    traced: TraceRequest,
    body: RequestBytes,
    model: str,
    profile: EngineProfile,
    arrival_s: float,
) -> WorkRequest:
    """The instance's side is read from the same bytes that it was sent."""
    sent = body.build(traced).partition(b"\r\n\r\n")[2]
    choice = read_chat(Call(sent), Served(profile, Models(model), MediaTokens())).generation.choices[0]
    told = replace(one.request, id=place)
    return WorkRequest(
        arrival_s, choice.prompt_tokens, choice.output_tokens, (), told=told, engine_blocks=choice.blocks
    )


def _shifted(one: Decided, by_s: float) -> Decided:
    return replace(
        one,
        arrived_s=one.arrived_s + by_s,
        dispatched_s=one.dispatched_s + by_s,
        first_token_s=one.first_token_s + by_s,
        finished_s=one.finished_s + by_s,
    )
