"""What the events of a stream mean, by API."""

import re
from typing import Protocol

from dualmap.router.apis.chunk_stream import ChunkStream
from dualmap.router.apis.messages_stream import MessagesStream
from dualmap.router.apis.responses_stream import ResponsesStream
from dualmap.router.apis.stream_event import Meaning, StreamError
from dualmap.router.http.openai_errors import HttpError


class StreamRules(Protocol):
    """alarms: a read of whole events without any of these byte strings holds pieces of the answer alone, once it has
    begun. noise: the same, in an event that says no more than a comment does. token: matches the event of a token; its
    groups are what stands before and behind the token's text, alike in those that follow. heartbeats: whoever asks for
    a stream gets events, and so can be sent comments before an instance has answered. pauses: the engine may rest
    while a stream goes on.
    """

    @property
    def alarms(self) -> tuple[bytes, bytes]: ...

    @property
    def noise(self) -> bytes | None: ...

    @property
    def token(self) -> re.Pattern[bytes]: ...

    @property
    def heartbeats(self) -> bool: ...

    @property
    def pauses(self) -> bool: ...

    def meaning(self, event: bytes) -> Meaning:
        """event: whole, and no comment."""
        ...

    def error(self, event: bytes) -> StreamError:
        """What an event says that means ERROR."""
        ...

    def aborted(self, body: bytes) -> bool:
        """Whether a plain answer is one that the instance ended by itself."""
        ...

    def error_events(self, error: HttpError, tail: bytes) -> bytes:
        """The events that end a stream with an error. tail: the last that the client has of it."""
        ...

    def last_events(self, error: StreamError) -> bytes:
        """The events that end a stream with the error of its instance, in its own words."""
        ...


CHUNK_STREAM: StreamRules = ChunkStream(known=True)
RESPONSES_STREAM: StreamRules = ResponsesStream()
MESSAGES_STREAM: StreamRules = MessagesStream()
OTHER_STREAM: StreamRules = ChunkStream(known=False)  # relayed as it comes, but for errors as vLLM sends them
