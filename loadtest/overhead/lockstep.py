"""One client and its model servers in one process, in step: a model server's next token comes when the client has read
the last one, so that what lies between them does the same work however slow it is.
"""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import Thread

import uvloop

from dualmap.loadtest.overhead.backend import Backend
from dualmap.loadtest.overhead.load import Load, LoadConnection, Loader
from dualmap.loadtest.overhead.measured_proxy import ProxyError

_ENDS_S = 600.0


class Lockstep:
    """Model servers that listen as long as the context is entered, in a thread; `run` is called from outside of it."""

    def __init__(self, ports: Sequence[int]) -> None:
        self._ports = ports
        self._loop = uvloop.new_event_loop()
        self._waits: SteppedBackend | None = None

    @contextmanager
    def serving(self) -> Iterator[None]:
        thread = Thread(target=self._loop.run_forever, daemon=True)
        thread.start()
        try:
            for port in self._ports:
                serve = self._loop.create_server(lambda: SteppedBackend(self), "127.0.0.1", port)
                asyncio.run_coroutine_threadsafe(serve, self._loop).result()
            yield
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            thread.join()

    def run(self, load: Load) -> None:
        """Send `load` over one connection, each request when the last is answered. Raises ProxyError."""
        loader = asyncio.run_coroutine_threadsafe(self._run(load), self._loop).result()
        if loader.ok != load.requests:
            raise ProxyError(f"{load.requests - loader.ok} of {load.requests} requests failed: {loader.first_failure}")

    async def _run(self, load: Load) -> Loader:
        loader = Loader(load)
        try:
            _, client = await asyncio.get_running_loop().create_connection(
                lambda: SteppedClient(loader, self), "127.0.0.1", load.port
            )
            await asyncio.wait_for(client.ended, _ENDS_S)
        except TimeoutError:
            raise ProxyError(f"the proxy stands still: {loader.ok} of {load.requests} requests are answered") from None
        except OSError as error:
            raise ProxyError(f"the proxy cannot be reached: {error}") from None
        return loader

    def wait(self, backend: "SteppedBackend") -> None:
        self._waits = backend

    def step(self) -> None:
        """The next token may be sent, where one waits."""
        backend, self._waits = self._waits, None
        if backend:
            backend.write_token()


class SteppedBackend(Backend):
    """A connection to a model server whose tokens wait for the client."""

    def __init__(self, lockstep: Lockstep) -> None:
        self._lockstep = lockstep

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._lockstep.step()  # what lies between may keep an answer's head until its first token comes

    def later(self) -> None:
        self._lockstep.wait(self)


class SteppedClient(LoadConnection):
    """The client's connection: each chunk of a body asks for the next token."""

    def __init__(self, loader: Loader, lockstep: Lockstep) -> None:
        super().__init__(loader)
        self._lockstep = lockstep

    def on_body(self, body: bytes) -> None:
        super().on_body(body)
        self._lockstep.step()
