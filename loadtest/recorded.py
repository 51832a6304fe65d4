"""A live run once more in virtual time: the arrivals of its journal, the same core, engines like its instances."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from instances.engine_profile import EngineProfile
from instances.sim_request import read_chat
from loadtest.decided import Decided, Recorder, decided
from loadtest.request_body import CHAT_PATH, RequestBytes
from loadtest.trace import TraceRequest
from loadtest.virtual_cluster import ClusterSettings, InstanceSpec, VirtualCluster
from loadtest.workload import Workload, WorkRequest
from router.journal_format import Record
from scheduler.config import SchedulerConfig
from scheduler.events import InstanceJoined

LEAD_S = 1.0  # instances are there so long before the first arrival; nothing is learned of them meanwhile
NETWORK_S = 0.0005  # each way: a connection of this machine, and the handling of what came


def run_again(
    records: Sequence[Record],
    config: SchedulerConfig,
    profile: EngineProfile,
    traced: Mapping[str, TraceRequest],
    model: str,
    network_s: float = NETWORK_S,
) -> dict[str, Decided]:
    """What is decided of the journal's requests in virtual time, by their ids in the journal.

    profile: of each instance. traced: what was sent, by the same ids. All were sent as `loadtest.replay` sends a chat,
    to the model of that name; times are the journal's.
    """
    live = decided(records)
    start_s = min(one.arrived_s for one in live.values()) - LEAD_S
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

    settings = ClusterSettings(config, specs, network_s=network_s)
    cluster = VirtualCluster(Workload("recorded", requests, config.block_tokens), settings, wrap)
    cluster.run()
    again = decided(recorders[0].records)
    return {
        request_id: _shifted(again[str(index)], start_s) for index, request_id in enumerate(live) if str(index) in again
    }


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
    choice = read_chat(sent, model, profile.block_size, profile.max_model_len).choices[0]
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
