"""A request as the APIs read it, and what they give back."""

from dataclasses import dataclass
from typing import NamedTuple

from dualmap.instances.simulated.answer import AnswerShape
from dualmap.instances.simulated.generation import Generation
from dualmap.router.http.http_request import HttpRequest
from dualmap.router.http.instance_head import RANK_FIELD
from dualmap.router.http.openai_errors import RequestRefusedError, bad_request


@dataclass(frozen=True, slots=True)
class Call:
    """item: the part of the path that names something, such as a response. priority: of the header; None: there is
    none that is a number. rank: of the header, as it is; empty: there is none."""

    body: bytes
    content_type: str = "application/json"
    item: str = ""
    priority: int | None = None
    rank: bytes = b""

    def check_json(self) -> None:
        """Raises RequestRefusedError."""
        if self.content_type.partition(";")[0].strip().lower() != "application/json":
            raise RequestRefusedError(bad_request("Unsupported Media Type: Only 'application/json' is allowed"))


class Job(NamedTuple):
    """A request for the engine, and the shape of its answer. plain_now: what the client is told at once; the answer is
    then made without a client."""

    generation: Generation
    shape: AnswerShape
    plain_now: bytes | None = None


class Reply(NamedTuple):
    """An answer that needs no engine."""

    body: bytes
    content_type: bytes = b"application/json"


def call_of(request: HttpRequest, item: str = "") -> Call:
    try:
        priority = int(_header(request, b"x-vllm-priority"))
    except ValueError:
        priority = None
    content_type = _header(request, b"content-type").decode("latin-1")
    return Call(request.body, content_type, item, priority, _header(request, RANK_FIELD))


def _header(request: HttpRequest, name: bytes) -> bytes:
    """The value of a field; empty if there is none."""
    if name in request.fields:
        return request.fields[name]
    for line in request.forwarded:
        field, _, value = line.partition(b":")
        if field.strip().lower() == name:
            return value.strip()
    return b""
