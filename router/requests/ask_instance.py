"""A request of the gateway's own to one instance, over the connections that clients' requests take."""

import asyncio
from collections.abc import Sequence

from dualmap.router.http.answer_head import AnswerHead
from dualmap.router.http.answer_sink import AnswerSink, Upstream
from dualmap.router.http.hop_by_hop import without_fields
from dualmap.router.http.instance_head import InstanceHead
from dualmap.router.http.upstream_pool import UpstreamPool
from dualmap.scheduler.events import FailureCause

MAX_ANSWER_BYTES = 1024 * 1024  # what is longer counts as no answer
NO_ANSWER = 0


class InstanceAnswer:
    """status: NO_ANSWER where there was none, whatever has come of it. lines: of its head."""

    __slots__ = ("body", "instance_id", "lines", "status")

    def __init__(self, instance_id: str, status: int = NO_ANSWER, lines: Sequence[bytes] = (), body: bytes = b""):
        self.instance_id = instance_id
        self.status = status
        self.lines = lines
        self.body = body


async def ask_instance(
    pool: UpstreamPool, target: bytes, lines: Sequence[bytes], body: bytes, timeout_s: float
) -> InstanceAnswer:
    """POST the body. lines: of the head, each with its end."""
    call = _Call(pool.instance_id, target, lines, body)
    pool.run(call)
    try:
        async with asyncio.timeout(timeout_s):
            return await call.answer
    except TimeoutError:
        return InstanceAnswer(pool.instance_id)
    finally:
        call.give_up()


class _Call(AnswerSink):
    """See AnswerSink."""

    def __init__(self, instance_id: str, target: bytes, lines: Sequence[bytes], body: bytes) -> None:
        self.upstream: Upstream | None = None
        self.body = body
        self.answer: asyncio.Future[InstanceAnswer] = asyncio.get_running_loop().create_future()
        self._instance_id = instance_id
        self._target = target
        self._lines = lines
        self._pieces: list[bytes] = []
        self._bytes = 0

    def head_for(self, to: InstanceHead) -> bytes:
        lines = without_fields(self._lines, to.dropped) if to.dropped else self._lines
        target = to.before_target + self._target + to.after_target
        return b"POST%b%bcontent-length: %d\r\n\r\n" % (target, b"".join(lines), len(self.body))

    def relay(self, body: bytes, pieces: int, head: AnswerHead, complete: bool) -> None:
        self._pieces.append(body)
        self._bytes += len(body)
        if self._bytes > MAX_ANSWER_BYTES:
            self.give_up()
            self._set(InstanceAnswer(self._instance_id))

    def answer_complete(self, head: AnswerHead) -> None:
        self.upstream = None
        self._set(InstanceAnswer(self._instance_id, head.status, head.lines, b"".join(self._pieces)))

    def attempt_failed(self, cause: FailureCause) -> None:
        self.upstream = None
        self._set(InstanceAnswer(self._instance_id))

    def give_up(self) -> None:
        if self.upstream is not None:
            self.upstream.abort()
            self.upstream = None

    def _set(self, answer: InstanceAnswer) -> None:
        if not self.answer.done():
            self.answer.set_result(answer)
