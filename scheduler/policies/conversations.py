"""Which earlier turn a prompt continues, and where that ran: what a session id says, for policies that need one.

A conversation is known by its blocks: a prompt continues the one whose blocks it begins with, and is longer. What many
different prompts begin with, such as a system prompt, is nobody's turn: few other blocks may have followed the last one
known, and the prompt must be longer than all that ended there.
"""

from collections import OrderedDict

from dualmap.scheduler.record import record
from dualmap.scheduler.request import Request

# Different blocks after one. After a turn's last full block come one or two: its own short one, and the next turn's.
CROWD = 3
MAX_BLOCKS = 2**18  # remembered in all: hours of chats, so that it decides nothing


@record
class _Seen:
    """instance_id: where the last prompt with this block ran. followers: blocks seen after it, up to CROWD.
    longest_tokens: of the prompts that ended in it."""

    instance_id: str
    followers: tuple[int, ...]
    longest_tokens: int


class Conversations:
    def __init__(self) -> None:
        self._seen: OrderedDict[int, _Seen] = OrderedDict()  # by block, least recent first, the tail before its root

    def earlier_turn(self, request: Request) -> tuple[int, str]:
        """How many leading blocks of the prompt are those of an earlier turn, and the instance that turn ran at. 0 and
        no instance for a first turn."""
        depth, last = 0, None
        for block in request.blocks:
            seen = self._seen.get(block)
            if seen is None:
                break
            depth += 1
            last = seen
        if last is None or len(last.followers) >= CROWD or request.prompt_tokens <= last.longest_tokens:
            return 0, ""
        return depth, last.instance_id

    def note(self, request: Request, instance_id: str) -> None:
        """The request runs there."""
        seen = self._seen
        follower: int | None = None
        for block in reversed(request.blocks):
            known = seen.pop(block, None)
            followers, longest_tokens = (known.followers, known.longest_tokens) if known is not None else ((), 0)
            if follower is None:
                longest_tokens = max(longest_tokens, request.prompt_tokens)
            elif follower not in followers and len(followers) < CROWD:
                followers = (*followers, follower)
            seen[block] = _Seen(instance_id, followers, longest_tokens)
            follower = block
        while len(seen) > MAX_BLOCKS:
            seen.popitem(last=False)

    def forget(self, instance_id: str) -> None:
        """What ran last at an instance that is gone continues nowhere."""
        for block in [block for block, seen in self._seen.items() if seen.instance_id == instance_id]:
            del self._seen[block]
