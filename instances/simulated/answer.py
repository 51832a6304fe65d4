"""One request's answer as its tokens are made: whole at the end, or streamed."""

import uuid
from collections.abc import Callable

from dualmap.instances.simulated.answer_shape import DONE_AND_LAST_CHUNK, STREAM_HEAD, AnswerShape
from dualmap.instances.simulated.request import TOKEN_BYTES, Generation
from dualmap.router.http.client_connection import ClientConnection
from dualmap.router.http.local_answers import json_response


class PlainAnswer:
    """engine_ids: one for each choice. forget: aborts a request of the engine. close: the connection ends with it."""

    def __init__(
        self,
        generation: Generation,
        client: ClientConnection,
        forget: Callable[[str], None],
        *,
        close: bool,
    ) -> None:
        answer_id = f"{'chatcmpl' if generation.chat else 'cmpl'}-{uuid.uuid4().hex}"
        self.engine_ids = [f"{answer_id}-{index}" for index in range(len(generation.choices))]
        self._generation = generation
        self._shape = AnswerShape(answer_id, generation.model, generation)
        self._client = client
        self._forget = forget
        self._close = close
        self._produced = [0] * len(generation.choices)
        self._reasons: list[str | None] = [None] * len(generation.choices)  # None: not finished
        self._cached_tokens = 0

    def first_token(self, index: int, cached_tokens: int) -> None:
        """The choice is about to get its first token."""
        self._cached_tokens += cached_tokens

    def token(self, index: int) -> None:
        """The choice got a token that is not its last."""
        self._produced[index] += 1

    def finish(self, index: int) -> str:
        """The choice got its last token; returns the finish reason."""
        self._produced[index] += 1
        reason = self._generation.choices[index].finish_reason
        self._end_choice(index, reason)
        return reason

    def abort(self) -> None:
        """The server ends: so does the answer, with what it has."""
        for index, engine_id in enumerate(self.engine_ids):
            if self._reasons[index] is None:
                self._forget(engine_id)
                self._end_choice(index, "abort")

    def _end_choice(self, index: int, reason: str) -> None:
        self._reasons[index] = reason
        reasons = [each for each in self._reasons if each is not None]
        if len(reasons) == len(self._reasons):
            body = self._shape.plain(self._cached_tokens, self._produced, reasons)
            self._client.answer(json_response(body, close=self._close), close=self._close)

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
        client: ClientConnection,
        forget: Callable[[str], None],
        *,
        close: bool,
    ) -> None:
        super().__init__(generation, client, forget, close=close)
        self._frames = [self._shape.token_frame(index) for index in range(len(generation.choices))]
        self._write = client.transport.write  # many in a turn of the event loop leave in one system call
        self._write(STREAM_HEAD % (b"connection: close\r\n" if close else b""))

    def first_token(self, index: int, cached_tokens: int) -> None:
        super().first_token(index, cached_tokens)
        self._write(self._shape.role_event(index))

    def token(self, index: int) -> None:
        start = self._produced[index] * TOKEN_BYTES
        self._produced[index] += 1
        head, tail = self._frames[index]
        self._write(head + self._generation.choices[index].answer[start : start + TOKEN_BYTES] + tail)

    def _end_choice(self, index: int, reason: str) -> None:
        self._reasons[index] = reason
        text = b"" if reason == "abort" else self._generation.choices[index].answer[-TOKEN_BYTES:]
        events = self._shape.last_event(index, text, reason)
        if None in self._reasons:
            self._write(events)
            return
        if self._generation.include_usage:
            events += self._shape.usage_event(self._cached_tokens, self._produced)
        self._write(events + DONE_AND_LAST_CHUNK)
        self._client.answered(close=self._close)
