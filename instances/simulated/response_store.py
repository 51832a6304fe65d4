"""The responses that a server keeps, for `previous_response_id` and for `GET /v1/responses/{id}`."""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from dualmap.instances.simulated.chat_prompt import ChatMessage

MOST_RESPONSES = 10_000
MOST_BYTES = 256 * 1024 * 1024  # of prompts and answers; vLLM forgets none, and so grows


@dataclass(slots=True)
class StoredResponse:
    """response: as JSON shows it. messages: the chat that it answers. engine_id: of a response that is made in the
    background, while it is made."""

    response: dict[str, Any]
    messages: tuple[ChatMessage, ...]
    size_bytes: int
    engine_id: str | None = None


class ResponseStore:
    """The least recently used go first."""

    def __init__(self, most_responses: int = MOST_RESPONSES, most_bytes: int = MOST_BYTES) -> None:
        self._most_responses = most_responses
        self._most_bytes = most_bytes
        self._stored: OrderedDict[str, StoredResponse] = OrderedDict()
        self._bytes = 0

    def get(self, response_id: str) -> StoredResponse | None:
        stored = self._stored.get(response_id)
        if stored is not None:
            self._stored.move_to_end(response_id)
        return stored

    def put(self, stored: StoredResponse) -> None:
        response_id = stored.response["id"]
        before = self._stored.pop(response_id, None)
        self._bytes += stored.size_bytes - (before.size_bytes if before else 0)
        self._stored[response_id] = stored
        while len(self._stored) > 1 and (len(self._stored) > self._most_responses or self._bytes > self._most_bytes):
            self._bytes -= self._stored.popitem(last=False)[1].size_bytes
