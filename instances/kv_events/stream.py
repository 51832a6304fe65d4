"""A vLLM server's KV events, from its ZMQ sockets to the core's events, with what was missed replayed."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

import zmq
import zmq.asyncio
from xxhash import xxh3_64_intdigest

from dualmap.instances.kv_events.format import END_OF_REPLAY, SEQUENCE_BYTES, KvEventError, read_batch, read_message
from dualmap.instances.kv_events.translation import KvTranslation
from dualmap.scheduler.fleet.signals import CacheEvent

REPLAY_TIMEOUT_S = 1.0  # of silence; vLLM looks for requests each 0.1 s
LIVE_BATCHES_KEPT = 100_000  # those that wait in the socket while others are replayed; vLLM keeps as many


@dataclass(slots=True)
class KvStreamStatus:
    """batches: applied, of which `replayed` were asked for. gaps: in their numbers. resets: times when what was known
    was thrown away: batches were lost or unreadable, or the server began anew. unknown_parents: runs of stored blocks
    that continue unknown ones. last_batch_at: monotonic seconds. error: of the last unreadable message."""

    batches: int = 0
    replayed: int = 0
    gaps: int = 0
    resets: int = 0
    unknown_parents: int = 0
    last_batch_at: float | None = None
    error: str = ""


class KvEventStream:
    """endpoint, replay_endpoint: addresses to connect to; without the latter every gap is a reset. on_events: is told
    what each batch changed, where it changed anything. block_tokens, identity: see KvTranslation."""

    def __init__(
        self,
        instance_id: str,
        endpoint: str,
        replay_endpoint: str | None,
        topic: str,
        block_tokens: int,
        identity: bool,
        on_events: Callable[[tuple[CacheEvent, ...]], None],
    ) -> None:
        self.status = KvStreamStatus()
        self._endpoint = endpoint
        self._replay_endpoint = replay_endpoint
        self._topic = topic.encode()
        self._on_events = on_events
        self._translation = KvTranslation(instance_id, block_tokens, identity)
        self._next = 0  # number of the batch that is due
        self._at_start = True  # nothing is known of this server process: its first batches may be lost without harm
        self._replayed: dict[int, int] = {}  # number -> digest of batches that may come live, too

    def held(self) -> tuple[CacheEvent, ...]:
        """What tells a reader all that is held, whatever it believed before."""
        return self._translation.held()

    async def run(self) -> None:
        """Until cancelled. A server that is not there, or goes away, is waited for."""
        context = zmq.asyncio.Context.instance()  # of the process: each has threads of its own
        live = _socket(context, zmq.SUB, self._endpoint, LIVE_BATCHES_KEPT)
        try:
            live.subscribe(self._topic)
            await self._catch_up(context)
            while True:
                await self._take(context, await _receive(live))
        finally:
            live.close()

    async def _take(self, context: zmq.asyncio.Context, frames: list[bytes]) -> None:
        """A live message. Those that come while others are replayed wait in the socket."""
        try:
            number, payload = read_message(frames)
        except KvEventError as error:
            self.status.error = str(error)  # its number is unknown: a gap will show it
            return
        if number < self._next:
            if self._replayed.get(number) == xxh3_64_intdigest(payload):
                return
            self._reset()  # the server began anew
            self._next, self._at_start = 0, True
        if number > self._next:
            await self._close_gap(context, number)
        if number == self._next:
            self._replayed.clear()
            self._apply(number, payload)

    async def _close_gap(self, context: zmq.asyncio.Context, number: int) -> None:
        """All before the batch of that number, and perhaps more, is applied or given up."""
        if not self._at_start:
            self.status.gaps += 1
        await self._catch_up(context)
        if self._next < number:
            if not self._at_start:
                self._reset()
            self._next = number

    async def _catch_up(self, context: zmq.asyncio.Context) -> None:
        """Ask for replays until one is complete or brings nothing: the server drops what a socket does not take at
        once."""
        if self._replay_endpoint is None:
            return
        complete, before = False, -1
        while not complete and self._next > before:
            before = self._next
            complete = await self._replay(context, self._replay_endpoint)

    async def _replay(self, context: zmq.asyncio.Context, endpoint: str) -> bool:
        """Apply the batches the server still has, from the one that is due. False if it did not send all of them.

        A socket of its own for each, since an answer that comes too late must not be taken for that to another request.
        """
        replay = _socket(context, zmq.DEALER, endpoint, 0)
        try:
            await replay.send_multipart([b"", self._next.to_bytes(SEQUENCE_BYTES, "big")])
            while True:
                async with asyncio.timeout(REPLAY_TIMEOUT_S):
                    number, payload = read_message(await _receive(replay))
                if number == END_OF_REPLAY:
                    return True
                if number > self._next and not self._at_start:
                    return False
                if number >= self._next:
                    self._replayed[number] = xxh3_64_intdigest(payload)
                    self.status.replayed += 1
                    self._apply(number, payload)
        except (TimeoutError, KvEventError) as error:
            self.status.error = str(error) or self.status.error
            return False
        finally:
            replay.close()

    def _apply(self, number: int, payload: bytes) -> None:
        self._next, self._at_start = number + 1, False
        self.status.batches += 1
        self.status.last_batch_at = time.monotonic()
        try:
            changes = self._translation.apply(read_batch(payload))
        except KvEventError as error:
            self.status.error = str(error)
            self._reset()
            return
        self.status.unknown_parents = self._translation.unknown_parents
        if changes:
            self._on_events(changes)

    def _reset(self) -> None:
        self.status.resets += 1
        self._on_events((self._translation.clear(),))


def connect_address(endpoint: str, host: str) -> str:
    """Where to reach an endpoint that vLLM was told to bind: tcp://*:5557 is found at the server's host."""
    scheme, _, address = endpoint.partition("://")
    bound, _, port = address.rpartition(":")
    if scheme != "tcp" or bound not in ("*", "0.0.0.0", "[::]", "::"):
        return endpoint
    return f"tcp://{f'[{host}]' if ':' in host else host}:{port}"


def _socket(context: zmq.asyncio.Context, kind: int, address: str, kept: int) -> zmq.asyncio.Socket:
    """Raises ZMQError."""
    socket = context.socket(kind)
    socket.linger = 0
    socket.rcvhwm = kept
    socket.ipv6 = "[" in address
    try:
        socket.connect(address)
    except zmq.ZMQError:
        socket.close()
        raise
    return socket


async def _receive(socket: zmq.asyncio.Socket) -> list[bytes]:
    """Lets others run even while messages wait."""
    await asyncio.sleep(0)
    frames: list[bytes] = await socket.recv_multipart()
    return frames
