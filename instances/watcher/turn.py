"""When a server is looked at: the looks at many servers are spread over their interval."""

import asyncio

from xxhash import xxh32_intdigest

from dualmap.instances.spec import InstanceSpec

SHORTEST_PAUSE = 0.1  # share of an interval


def turn_of(spec: InstanceSpec) -> float:
    """Where in each interval it is, as a share. All ranks of a server have the same: they share what is seen."""
    name = spec.instance_id if spec.endpoint.rank is None else spec.endpoint.server.instance_id
    return xxh32_intdigest(name.encode()) / 2**32


def pause_s(turn: float, interval_s: float) -> float:
    """From now until the server's turn."""
    left_s = (turn * interval_s - asyncio.get_running_loop().time()) % interval_s
    return left_s if left_s > SHORTEST_PAUSE * interval_s else left_s + interval_s
