"""The head of a request as an instance gets it."""

from dualmap.router.http.hop_by_hop import without_fields
from dualmap.router.http.instance_head import InstanceHead
from dualmap.router.requests.asked import Arrived


def attempt_head(arrived: Arrived, to: InstanceHead, target: bytes, body_bytes: int) -> bytes:
    """target: the client's, or that of the rest of an answer. body_bytes: of the body that follows."""
    http = arrived.http
    forwarded = without_fields(http.forwarded, to.dropped) if to.dropped else http.forwarded
    return b"".join(
        (
            http.method.encode(),
            to.before_target,
            target,
            to.after_target,
            *forwarded,
            b"x-request-id: ",
            arrived.request_id,
            b"\r\ncontent-length: %d\r\n\r\n" % body_bytes,
        )
    )
