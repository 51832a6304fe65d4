"""What an Instance actor is to keep: a server to start, or one that runs already."""

from dataclasses import dataclass, field
from pathlib import Path

from dualmap.scheduler.fleet.endpoint import NOWHERE, Endpoint
from dualmap.scheduler.instance_capacity import InstanceCapacity
from dualmap.scheduler.role import Role


@dataclass(frozen=True, slots=True)
class KvEventSource:
    """Where a server publishes its KV events, as it was told in --kv-events-config: an endpoint such as tcp://*:5557 is
    looked for on the server's host. block_tokens: of the blocks that the gateway names; 0 if it has no tokenizer, so
    that the events tell only of clears."""

    endpoint: str
    replay_endpoint: str | None = None
    topic: str = "kv-events"
    block_tokens: int = 0


@dataclass(frozen=True, slots=True)
class InstanceSpec:
    """Either `command`, a server to start, or the endpoint of one to watch.

    In the command and the values of env, {host} and {port} are replaced by what the server is to listen on; a free port
    is taken for each start, and one more, {kv_port}, for other servers. Without {port} the server has to print
    `listening on http://HOST:PORT`. {unique} is a text that no other start has, there and in kv_events. endpoint: of a
    server to start, how it is reached but for the port; an empty host is the address of the node it is started on.
    start_timeout_s: from its start until it answers. stop_grace_s: from SIGTERM to SIGKILL.
    pool: which instances it serves the same models with. probe: whether it may be asked for a token, where nothing else
    tells that it is alive. behind_balancer: several servers answer at the address. role: which parts of requests it is
    given. revision: servers of another one cannot read what it has computed.
    """

    instance_id: str
    capacity: InstanceCapacity
    log_path: Path = Path()
    command: tuple[str, ...] = ()
    env: dict[str, str] = field(default_factory=dict)
    endpoint: Endpoint = NOWHERE
    start_timeout_s: float = 30.0
    stop_grace_s: float = 3.0
    kv_events: KvEventSource | None = None
    pool: str = ""
    probe: bool = True
    behind_balancer: bool = False
    role: Role = Role.BOTH
    revision: str = ""
