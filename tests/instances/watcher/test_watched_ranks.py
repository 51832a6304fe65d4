"""Ranks of a data-parallel server: watched.py, watcher.py, shared_client.py."""

import json
from dataclasses import replace

import msgspec
import zmq

from dualmap.instances.spec import InstanceSpec
from dualmap.instances.watcher import watched
from dualmap.router.config.instance_specs import external_spec
from dualmap.router.config.load import load_config
from dualmap.scheduler.blocks import hash_tokens, token_root
from dualmap.scheduler.fleet.member import MemberState
from tests.deployment import free_port
from tests.instances.watcher.conftest import ScriptedServer, Watch, is_ready, spec_of

SIZE = 4  # tokens of a block


def of_engines(*running: int, start: int = 5) -> str:
    lines = [f'vllm:num_requests_running{{engine="{engine}"}} {count}' for engine, count in enumerate(running)]
    lines += [f'vllm:cache_config_info{{engine="{e}",block_size="16",num_gpu_blocks="{9 + e}"}} 1' for e in range(2)]
    return "\n".join((*lines, f"process_start_time_seconds {start}", ""))


def ranks_of(server: ScriptedServer, ranks: str, **more: object) -> list[InstanceSpec]:
    config = load_config(None, {"instances": [{"url": f"{server.url}@{ranks}", **more}]})
    return [external_spec(config, "", member).spec for member in config.instances[0].members]


def id_of(server: ScriptedServer, rank: int) -> str:
    return f"127.0.0.1:{server.port}@{rank}"


def states(watch: Watch) -> dict[str, MemberState]:
    return {member.instance_id: member.state for member in watch.members}


def test_a_server_is_asked_once_for_all_its_ranks_and_each_has_its_own_load(told, server, monkeypatch):
    monkeypatch.setattr(watched, "MODELS_INTERVAL_S", 1.0)
    server.metrics = of_engines(3, 1)

    def loads(watch: Watch) -> dict[str, int]:
        return {r.member.instance_id: r.signals.load.running for r in watch.reports if r.signals.load}

    async def tell(watch: Watch) -> None:
        await watch.watch(*ranks_of(server, "0..1"))
        await watch.until(lambda: loads(watch) == {id_of(server, 0): 3, id_of(server, 1): 1})
        assert {m.instance_id: m.capacity.kv_tokens for m in watch.members if is_ready(m)} == {
            id_of(server, 0): 16 * 9,
            id_of(server, 1): 16 * 10,
        }
        begun = dict(server.asked)
        await watch.until(lambda: server.asked["/metrics"] >= begun["/metrics"] + 4)
        server.metrics = of_engines(3, 7)
        await watch.until(lambda: loads(watch)[id_of(server, 1)] == 7)
        beats = sum(beat.load_age_s >= 0.0 for beat in watch.beats)
        assert beats > 1.5 * (server.asked["/metrics"] - begun["/metrics"] - 2), "each look is one of both ranks"

    told(tell)


def test_when_a_server_is_lost_or_began_anew_so_are_all_its_ranks(told, server):
    server.metrics = of_engines(0, 0)

    async def tell(watch: Watch) -> None:
        await watch.watch(*ranks_of(server, "0..1"))
        await watch.until(lambda: set(states(watch).values()) == {MemberState.READY})
        first = {m.instance_id: m.incarnation for m in watch.members}
        server.metrics = of_engines(0, 0, start=6)
        await watch.until(lambda: all(m.incarnation > first[m.instance_id] for m in watch.members[-2:]))
        server.metrics = ""
        server.statuses["/health"] = 503
        await watch.until(lambda: set(states(watch).values()) == {MemberState.STARTING})
        server.metrics = of_engines(0, 0, start=6)
        server.statuses.clear()
        await watch.until(lambda: set(states(watch).values()) == {MemberState.READY})

    told(tell)


def test_a_rank_is_drained_alone_and_leaves_the_others_their_connection(told, server):
    server.metrics = of_engines(0, 0)

    async def tell(watch: Watch) -> None:
        one, other = ranks_of(server, "0..1")
        await watch.watch(one, other)
        await watch.until(lambda: set(states(watch).values()) == {MemberState.READY})
        await watch.watcher.drain(one.instance_id)
        assert states(watch) == {one.instance_id: MemberState.DRAINING, other.instance_id: MemberState.READY}
        await watch.watch(other)
        asked = server.asked["/metrics"]
        await watch.until(lambda: server.asked["/metrics"] > asked + 1)
        assert states(watch)[other.instance_id] is MemberState.READY

    told(tell)


def test_a_rank_that_there_is_not_says_how_many_there_are(told, server):
    server.metrics = of_engines(0, 0)

    async def tell(watch: Watch) -> None:
        await watch.watch(*ranks_of(server, "1..2"))
        away = await watch.heard(lambda member: member.instance_id == id_of(server, 2) and bool(member.reason))
        assert (away.state, away.reason) == (
            MemberState.STARTING,
            "it has no rank 2: its metrics tell of 2 engines",
        )
        await watch.heard(is_ready)

    told(tell)


def test_a_server_of_several_engines_that_is_named_as_one_says_how_to_name_them(told, server):
    server.metrics = of_engines(0, 0, 0)

    async def tell(watch: Watch) -> None:
        await watch.watch(spec_of(server.port))
        assert (await watch.heard(is_ready)).reason == (
            f"3 data-parallel engines, of which vLLM chooses: name them {server.url}@0..2 to choose by prefix"
        )

    told(tell)


def test_a_rank_is_asked_for_a_token_itself(told, server):
    server.metrics = ""

    async def tell(watch: Watch) -> None:
        await watch.watch(*ranks_of(server, "0..1"))
        await watch.until(lambda: set(states(watch).values()) == {MemberState.READY})
        assert len(server.bodies) == 2
        assert {heads.get("x-data-parallel-rank") for heads in server.posted} == {"0", "1"}

    told(tell)


def test_what_a_rank_publishes_is_told_of_that_rank(told, server):
    server.metrics = of_engines(0, 0)
    port = free_port(2)
    context = zmq.Context()
    publishers = []
    for rank in range(2):
        publisher = context.socket(zmq.XPUB)
        publisher.linger = 0
        publisher.bind(f"tcp://127.0.0.1:{port + rank}")
        publishers.append(publisher)

    def publish(rank: int) -> None:
        event = {"type": "BlockStored", "block_hashes": [1], "parent_block_hash": None, "block_size": SIZE}
        batch = msgspec.msgpack.encode([0.0, [event | {"token_ids": [rank] * SIZE}], rank])
        publishers[rank].send_multipart([b"kv", (0).to_bytes(8, "big"), batch])

    def told_of(watch: Watch) -> dict[str, tuple[int, ...]]:
        stored = [change for report in watch.reports for change in report.signals.cache]
        return {change.instance_id: tuple(change.blocks) for change in stored}

    async def tell(watch: Watch) -> None:
        specs = ranks_of(server, "0..1", kv_events={"endpoint": f"tcp://*:{port}", "topic": "kv"})
        await watch.watch(*(replace(s, kv_events=replace(s.kv_events, block_tokens=SIZE)) for s in specs))
        for rank, publisher in enumerate(publishers):
            await watch.until(lambda publisher=publisher: publisher.poll(0))
            publisher.recv()
            publish(rank)
        wanted = {
            id_of(server, rank): tuple(hash_tokens([rank] * SIZE, SIZE, parent=token_root("", ""))) for rank in range(2)
        }
        await watch.until(lambda: told_of(watch) == wanted)

    try:
        told(tell)
    finally:
        context.destroy()


def test_an_adapter_is_loaded_once_on_a_server_for_all_its_ranks(told, server):
    server.metrics = of_engines(0, 0)
    load = json.dumps({"lora_name": "sql", "lora_path": "/sql"}).encode()
    cards = json.dumps({"data": [{"id": "m"}, {"id": "sql", "parent": "m"}]})

    async def tell(watch: Watch) -> None:
        await watch.fleet.want_adapter("", "sql", load)
        server.loaded = lambda: setattr(server, "models", cards)
        await watch.watch(*ranks_of(server, "0..1"))
        await watch.until(lambda: len({m.instance_id for m in watch.members if m.adapters == ("sql",)}) == 2)
        assert len(server.bodies) == 1

    told(tell)
