"""One request's answer as its tokens are made: whole at the end, or streamed."""

from collections.abc import Callable, Sequence
from typing import Protocol

from dualmap.instances.simulated.generation import Generation
from dualmap.instances.simulated.words import text_of_token
from dualmap.router.http.client_connection import ClientConnection
from dualmap.router.http.local_answers import ok_response
from dualmap.router.http.openai_errors import HttpError, error_events, error_response

STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
    b"cache-control: no-cache\r\ntransfer-encoding: chunked\r\n%b\r\n"
)
LAST_CHUNK = b"0\r\n\r\n"
ABORTED = "abort"


def chunked(event: bytes) -> bytes:
    """vLLM, too, sends each event as an HTTP chunk of its own."""
    return b"%x\r\n%b\r\n" % (len(event), event)


class AnswerShape(Protocol):
    """The bytes of an API's answers to one request. Events are whole HTTP chunks. produced: tokens so far of each
    choice."""

    id: str
    content_type: bytes  # of a plain answer

    def opening(self) -> bytes:
        """The events that come before any token is there."""

    def first(self, index: int) -> bytes:
        """The events right before a choice's first token."""

    def token(self, index: int, text: bytes, produced: Sequence[int]) -> bytes:
        """The event of a token that is not the choice's last; text needs no escapes in JSON, and is empty where the
        token ends within a character."""

    def last(self, index: int, text: bytes, produced: Sequence[int], reason: str) -> bytes:
        """The events of a choice's last token; if the answer was aborted, of none."""

    def ending(self, produced: Sequence[int], reasons: Sequence[str]) -> bytes:
        """The events after all choices have ended."""

    def plain(self, produced: Sequence[int], reasons: Sequence[str]) -> bytes:
        """The body of the whole answer."""


class PlainAnswer:
    """engine_ids: one for each choice. forget: aborts a request of the engine. close: the connection ends with it.
    client: None where nobody waits for the answer."""

    def __init__(
        self,
        generation: Generation,
        shape: AnswerShape,
        client: ClientConnection | None,
        forget: Callable[[str], None],
        *,
        close: bool,
    ) -> None:
        count = len(generation.choices)
        self.engine_ids = [f"{shape.id}-{index}" for index in range(count)]
        self.generation = generation
        self._shape = shape
        self._client = client
        self._forget = forget
        self._close = close
        self._produced = [0] * count
        self._reasons: list[str | None] = [None] * count  # None: not finished

    def first_token(self, index: int, cached_tokens: int) -> None:
        """The choice is about to get its first token."""
        generation = self.generation
        if index == 0 and generation.remote_cached_tokens is not None:
            generation.cached_tokens += generation.remote_cached_tokens
        elif index % generation.n == 0:  # the others find the blocks of the first
            generation.cached_tokens += cached_tokens

    def token(self, index: int) -> None:
        """The choice got a token that is not its last."""
        self._produced[index] += 1

    def finish(self, index: int) -> str:
        """The choice got its last token; returns the finish reason."""
        self._produced[index] += 1
        reason = self.generation.choices[index].finish_reason
        self._end_choice(index, reason)
        return reason

    def abort(self) -> None:
        """The server ends: so does the answer, with what it has."""
        for index, engine_id in enumerate(self.engine_ids):
            if self._reasons[index] is None:
                self._forget(engine_id)
                self._end_choice(index, ABORTED)

    def fail(self, error: HttpError) -> None:
        """The engine cannot make the answer."""
        for engine_id in self.engine_ids:
            self._forget(engine_id)
        self._end_failed(error)

    def _end_choice(self, index: int, reason: str) -> None:
        self._reasons[index] = reason
        reasons = [each for each in self._reasons if each is not None]
        if len(reasons) == len(self._reasons):
            self._end(reasons)

    def _end(self, reasons: Sequence[str]) -> None:
        body = self._shape.plain(self._produced, reasons)
        if self._client is not None:
            response = ok_response(body, self._shape.content_type, close=self._close)
            self._client.answer(response, close=self._close)

    def _end_failed(self, error: HttpError) -> None:
        if self._client is not None:
            self._client.answer(error_response(error, close=self._close), close=self._close)

    # What becomes of the client.

    def client_left(self) -> None:
        for engine_id in self.engine_ids:
            self._forget(engine_id)

    def client_paused(self) -> None:
        """vLLM goes on generating, too; what waits is bounded by the length of the answer."""

    def client_resumed(self) -> None:
        """Nothing was stopped."""

    def probe_client(self) -> bool:
        return False


class StreamedAnswer(PlainAnswer):
    """The response head goes out at once, as from vLLM."""

    def __init__(
        self,
        generation: Generation,
        shape: AnswerShape,
        client: ClientConnection,
        forget: Callable[[str], None],
        *,
        close: bool,
    ) -> None:
        super().__init__(generation, shape, client, forget, close=close)
        self._stream_to = client
        self._write = client.transport.write  # many in a turn of the event loop leave in one system call
        self._write(STREAM_HEAD % (b"connection: close\r\n" if close else b"") + shape.opening())

    def first_token(self, index: int, cached_tokens: int) -> None:
        super().first_token(index, cached_tokens)
        self._write(self._shape.first(index))

    def token(self, index: int) -> None:
        text = text_of_token(self.generation.choices[index].answer, self._produced[index])
        self._produced[index] += 1
        self._write(self._shape.token(index, text, self._produced))

    def _end_choice(self, index: int, reason: str) -> None:
        text = b""
        if reason != ABORTED:
            text = text_of_token(self.generation.choices[index].answer, self._produced[index] - 1)
        self._write(self._shape.last(index, text, self._produced, reason))
        super()._end_choice(index, reason)

    def _end(self, reasons: Sequence[str]) -> None:
        self._write(self._shape.ending(self._produced, reasons) + LAST_CHUNK)
        self._stream_to.answered(close=self._close)

    def _end_failed(self, error: HttpError) -> None:
        self._write(chunked(error_events(error)) + LAST_CHUNK)
        self._stream_to.answered(close=self._close)
