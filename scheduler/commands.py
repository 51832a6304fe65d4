"""Orders the core gives its driver, in the imperative. The driver carries them out in the order given."""

from dataclasses import KW_ONLY
from enum import StrEnum

from dualmap.scheduler.events import FailureCause
from dualmap.scheduler.record import record
from dualmap.scheduler.request import ChoiceReason
from dualmap.scheduler.role import Leg
from dualmap.scheduler.tiers import Loads


class RejectReason(StrEnum):
    NO_INSTANCE = "no_instance"  # none is ready
    QUEUE_FULL = "queue_full"  # as much waits as may wait
    QUEUE_TIMEOUT = "queue_timeout"  # waited in the gateway until its time-out
    FIRST_TOKEN_TIMEOUT = "first_token_timeout"  # dispatched, and no token until the time-out its client gave it
    ATTEMPTS_EXHAUSTED = "attempts_exhausted"  # failed on max_attempts instances before its first token


@record
class Dispatch:
    """Send the request to the instance, or so much of it as the leg is. last: if this attempt fails, none will follow.
    longer: another instance takes longer prompts and answers. The rest says why, for metrics and headers; the driver
    decides nothing by it.

    queued_s: time spent waiting in the gateway. estimated_ttft_s: from arrival, as estimated when it was placed.
    cached_tokens: tokens of the prompt believed to be cached there. loads: those of them in tiers behind its KV pool.
    """

    request_id: str
    attempt: int
    instance_id: str
    _: KW_ONLY
    reason: ChoiceReason
    queued_s: float
    estimated_ttft_s: float
    cached_tokens: int
    last: bool = False
    longer: bool = False
    leg: Leg = Leg.WHOLE
    loads: Loads | None = None


@record
class Reject:
    """Answer with an error; nothing of the request has been sent to the client. It is over for the core."""

    request_id: str
    reason: RejectReason
    retry_after_s: float


@record
class Abort:
    """Close the attempt's connection to the instance; what becomes of the request comes as another command."""

    request_id: str
    attempt: int
    instance_id: str


@record
class FailStream:
    """End the request with an error: the client has part of an answer, or no other instance can give it. It is over for
    the core; a driver that can tell what is left of the answer says StreamContinued instead."""

    request_id: str
    cause: FailureCause


@record
class TellOthers:
    """Tell the other gateways at once what is booked here, and hear what they have, instead of when it is time for it.
    GatewayLoads is the answer."""


Command = Dispatch | Reject | Abort | FailStream | TellOthers
