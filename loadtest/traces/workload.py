"""What a simulated cluster is asked to do: requests as lengths, block hashes and who waits for whom.

One shape for all trace formats; `dualmap.loadtest.formats` has a reader for each. Nothing in it is text.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from dualmap.loadtest.traces.trace import BLOCK_TOKENS
from dualmap.scheduler.request import Request


@dataclass(slots=True)
class WorkRequest:
    """One request.

    arrival_s: from the start of the workload, for a request that waits for no other. For a follow-up it is only where
        the trace had it: the request is released think_s after its predecessor `after` has ended.
    blocks: chained 64-bit hashes of the prompt's blocks of 512 tokens; equal hashes stand for equal prefixes up to the
        end of the block. A format that names the partial last block too may have one more than there are full blocks.
    answer_blocks: hashes of the blocks that follow `blocks` once the answer is there, where the next turn's prompt
        tells them. The first covers the end of the prompt where that is no multiple of 512.
    session: requests of one conversation or agent run have the same number, dense from 0.
    after: index in the workload of the request to wait for, always smaller than the request's own.
    think_s: seconds between the end of `after` and this request.
    told: what the core is told of it where that is on record, with its place in the workload as id; None: what follows
        from the other fields.
    engine_blocks: the instance's own blocks of prompt and answer, of its own block size; None: blocks, answer_blocks.
    """

    arrival_s: float
    prompt_tokens: int
    output_tokens: int
    blocks: tuple[int, ...]
    answer_blocks: tuple[int, ...] = ()
    session: int = 0
    after: int | None = None
    think_s: float = 0.0
    told: Request | None = None
    engine_blocks: tuple[int, ...] | None = None


@dataclass
class Workload:
    """Requests in the order of arrival_s."""

    name: str
    requests: list[WorkRequest]
    block_tokens: int = BLOCK_TOKENS


def fill_answer_blocks(requests: Sequence[WorkRequest], continues: Sequence[int | None]) -> None:
    """Set answer_blocks, where they are not set, from the next turn's prompt.

    continues: for each request the index of the turn whose conversation it goes on with. A next turn that rewrote the
    prompt, or is too short to hold the answer, tells nothing; of several next turns the first counts.
    """
    for later, before in zip(requests, continues, strict=True):
        if before is None or requests[before].answer_blocks:
            continue
        earlier = requests[before]
        full = earlier.prompt_tokens // BLOCK_TOKENS
        answered_tokens = earlier.prompt_tokens + earlier.output_tokens
        if later.prompt_tokens >= answered_tokens and later.blocks[:full] == earlier.blocks[:full]:
            earlier.answer_blocks = later.blocks[full : answered_tokens // BLOCK_TOKENS]


def in_order(name: str, requests: Sequence[WorkRequest]) -> Workload:
    """A workload of requests in any order; their `after` are places in `requests`, before their own.

    Sorts by arrival, moves no follow-up before its predecessor, makes `after` places in the result and session numbers
    dense. Changes the requests.
    """
    for request in requests:
        if request.after is not None:
            request.arrival_s = max(request.arrival_s, requests[request.after].arrival_s)
    order = sorted(range(len(requests)), key=lambda i: requests[i].arrival_s)
    place = [0] * len(requests)
    for position, index in enumerate(order):
        place[index] = position
    sessions: dict[int, int] = {}
    found = [requests[index] for index in order]
    for request in found:
        request.session = sessions.setdefault(request.session, len(sessions))
        if request.after is not None:
            request.after = place[request.after]
    return Workload(name, found)
