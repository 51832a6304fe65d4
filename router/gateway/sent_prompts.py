"""The prompts that this gateway has sent, until the other gateways are told of them."""

from collections import deque

from dualmap.scheduler.fleet.messages import Sent
from dualmap.scheduler.request import Request

MAX_SENT = 10_000  # kept until Fleet has been told


class SentPrompts:
    """wanted: there are other gateways, which want to know."""

    def __init__(self) -> None:
        self.wanted = False
        self._sent: deque[Sent] = deque(maxlen=MAX_SENT)

    def note(self, instance_id: str, request: Request) -> None:
        """The request went to the instance."""
        if self.wanted and request.chain:
            self._sent.append(Sent(instance_id, request.blocks, request.key_blocks))

    def take(self) -> tuple[Sent, ...]:
        """Those since the last call."""
        sent = tuple(self._sent)
        self._sent.clear()
        return sent
