"""What the head of a request says of the instance that it goes to."""

from dataclasses import dataclass

from dualmap.router.http.credentials import CREDENTIAL_FIELDS
from dualmap.router.http.instance_key import authorization_line
from dualmap.scheduler.fleet.endpoint import Endpoint, host_port

RANK_FIELD = b"x-data-parallel-rank"  # vLLM's: which of its engines a request is for


@dataclass(frozen=True, slots=True)
class InstanceHead:
    """before_target: all between the method and the target. after_target: all lines that concern the instance, after
    the target. brings_key: an instance is shown the gateway's key, and none that came with a request. authority: as
    the server may call itself where it redirects. prefix: of all paths. dropped: fields of requests that are not passed
    on, in lower case."""

    before_target: bytes
    after_target: bytes
    brings_key: bool
    authority: bytes
    prefix: bytes
    dropped: frozenset[bytes] = frozenset()


def head_to(endpoint: Endpoint) -> InstanceHead:
    """With the key as its file has it by now."""
    prefix = endpoint.prefix.encode()
    name = endpoint.authority
    lines = authorization_line(endpoint)
    dropped = CREDENTIAL_FIELDS if endpoint.key_file else frozenset()
    if endpoint.rank is not None:
        lines += b"%b: %d\r\n" % (RANK_FIELD, endpoint.rank)
        dropped |= {RANK_FIELD}
    return InstanceHead(
        before_target=b" " + prefix,
        after_target=b" HTTP/1.1\r\nhost: %b\r\n%b" % (name.encode(), lines),
        brings_key=bool(endpoint.key_file),
        authority=(host_port(endpoint.server_name or endpoint.host, endpoint.port) if endpoint.port else name).encode(),
        prefix=prefix,
        dropped=dropped,
    )
