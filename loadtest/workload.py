"""What a simulated cluster is asked to do: requests as lengths, block hashes and who waits for whom.

One shape for all trace formats; `loadtest.formats` has a reader for each. Nothing in it is text.
"""

from dataclasses import dataclass

from loadtest.trace import BLOCK_TOKENS


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
    """

    arrival_s: float
    prompt_tokens: int
    output_tokens: int
    blocks: tuple[int, ...]
    answer_blocks: tuple[int, ...] = ()
    session: int = 0
    after: int | None = None
    think_s: float = 0.0


@dataclass
class Workload:
    """Requests in the order of arrival_s."""

    name: str
    requests: list[WorkRequest]
    block_tokens: int = BLOCK_TOKENS
