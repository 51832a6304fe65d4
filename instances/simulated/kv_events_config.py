"""`--kv-events-config`, as vLLM 0.32 takes it (vllm/config/kv_events.py)."""

from typing import Annotated, Literal

import msgspec

_Count = Annotated[int, msgspec.Meta(ge=1)]


class EndpointError(Exception):
    """Events cannot be published at an endpoint; the message names the endpoint and says why."""


class KvEventsConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """endpoint: tcp://*:PORT and ipc://NAME are listened at, anything else is connected to; of a further data-parallel
    rank, the port plus the rank. buffer_steps: batches that are kept for replay. hwm: messages that wait for a reader
    who is too slow; more are lost. max_queue_size: not needed here, since a step publishes its batch itself."""

    enable_kv_cache_events: bool = False
    publisher: Literal["null", "zmq"] | None = None  # None: zmq, where events are enabled
    endpoint: str = "tcp://*:5557"
    replay_endpoint: str | None = None  # None: nothing is replayed
    buffer_steps: _Count = 10_000
    hwm: Annotated[int, msgspec.Meta(ge=0)] = 100_000  # 0: no limit
    max_queue_size: _Count = 100_000
    topic: str = ""

    @property
    def publishes(self) -> bool:
        return self.enable_kv_cache_events and self.publisher != "null"


def read_kv_events_config(text: str) -> KvEventsConfig:
    """Raises ValueError, with what is wrong and where."""
    try:
        return msgspec.json.decode(text, type=KvEventsConfig)
    except msgspec.ValidationError as error:
        known = ", ".join(KvEventsConfig.__struct_fields__)
        raise ValueError(f"{error}; known fields are {known}") from None
    except msgspec.DecodeError as error:
        raise ValueError(f"not JSON: {error}") from None


def rank_endpoint(endpoint: str, rank: int) -> str:
    """Where a rank publishes, by vLLM's rule (`offset_endpoint_port`). Raises EndpointError."""
    if rank == 0:
        return endpoint
    address, _, port = endpoint.rpartition(":")
    if "tcp" not in endpoint or not address or not port.isdecimal():
        raise EndpointError(f"{endpoint!r} has no port to count up for data-parallel ranks, as tcp://*:5557 has")
    return f"{address}:{int(port) + rank}"
