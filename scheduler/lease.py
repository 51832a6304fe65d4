"""A computed prompt that waits to be fetched."""

from dataclasses import KW_ONLY

from dualmap.scheduler.record import record


@record
class Lease:
    """Its instance keeps the prompt until another one has it.

    ran_s: how long it took to compute, in seconds. late: the request's first token was due before. until: when the
    prompt may be gone. revision: of the instance.
    """

    instance_id: str
    incarnation: int
    _: KW_ONLY
    ran_s: float
    late: bool
    until: float
    revision: str = ""
