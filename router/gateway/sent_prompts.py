"""The prompts that this gateway has sent, until the other gateways are told of them."""

from dualmap.scheduler.fleet.messages import Sent
from dualmap.scheduler.fleet.prompt_log import PromptLog
from dualmap.scheduler.request import Request

MAX_SENT_BLOCKS = 250_000  # kept until Fleet has been told: ten busy seconds, 10 MB


class SentPrompts:
    """wanted: there are other gateways, which want to know."""

    def __init__(self) -> None:
        self.wanted = False
        self._sent: PromptLog[Sent] = PromptLog(MAX_SENT_BLOCKS)

    def note(self, instance_id: str, request: Request) -> None:
        """The request went to the instance."""
        if self.wanted and request.chain:
            self._sent.append(Sent(instance_id, request.blocks, request.key_blocks))

    def take(self) -> tuple[Sent, ...]:
        """Those since the last call."""
        sent = tuple(self._sent)
        self._sent.clear()
        return sent
