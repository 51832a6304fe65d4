"""The background process of gateways whose Fleet is on another host: `python -m dualmap.router.local.link NAME SOCKET
STARTS ADDRESS NAMESPACE`. It passes calls on to the background process of a deployment, whose actors have that
namespace, on the Ray cluster at ADDRESS, ray://HOST:PORT. Once that is lost it ends, and the one that is started in its
place looks for the next: a client of Ray outlives no cluster."""

import asyncio
import logging
import os
import socket
import sys
import threading
import time
from contextlib import suppress
from typing import Any

import uvloop

from dualmap.router.local.process import end_with_parent
from dualmap.router.local.serve import Callers
from dualmap.router.reach.host import HELLO
from dualmap.router.reach.names import BACKGROUND
from dualmap.router.reach.packed import packed_call, packed_error, unpacked
from dualmap.router.reach.reach import CallError, NoActorError, RefusedFormError

PROGRAM = "dualmap.router.local.link"
LOOK_S = 0.5
CONNECT_S = 2.0
JOIN_S = 60.0  # Ray takes seconds to import and to join, on a busy machine many
HELLO_S = 3.0
LOST_S = 10.0  # without an answer, until another cluster is looked for
SCHEME = "ray://"
REFUSED_THERE = "connection refused"


class Link:
    """address: HOST:PORT, where Ray lets clients in. namespace: of the deployment's actors there."""

    def __init__(self, address: str, namespace: str) -> None:
        self._address = address
        self._namespace = namespace
        self._background: Any = None  # see RayHandle
        self._why = f"nobody has answered at {address} yet"  # no call is passed on
        self._heard_at: float | None = None  # of the cluster; None: it is not joined yet

    async def answer(self, pickled: bytes) -> tuple[bytes, bool]:
        """Of a call, see Host."""
        if self._background is None:
            return packed_error(CallError(self._why)), True
        from dualmap.router.reach.ray_reach import FAILED, REFUSED, begin

        try:
            outcome, answer = await begin(self._background, pickled)
        except Exception as error:  # a client of Ray has many of its own
            return packed_error(CallError(f"{self._address}: {(str(error) or repr(error)).splitlines()[0]}")), True
        if outcome == REFUSED:
            return packed_error(RefusedFormError(answer.decode())), True
        return answer, outcome == FAILED

    async def keep(self) -> None:
        """Join the cluster, and look for the background process whenever it does not answer."""
        while why := await asyncio.to_thread(unreachable, self._address):
            self._why = f"nobody answers at {self._address}: {why}"
            await asyncio.sleep(LOOK_S)
        self._why = f"the Ray cluster at {self._address} is being joined"
        async with asyncio.timeout(JOIN_S):
            await asyncio.to_thread(_join, f"{SCHEME}{self._address}", self._namespace)
        self._heard_at = time.monotonic()
        while True:
            if self._background is None:
                self._background = await asyncio.to_thread(_find_background, self._namespace)
            if self._background is None:
                self._why = f"no deployment runs on the Ray cluster at {self._address} yet"
                self._heard_at = time.monotonic()
            elif await self._hello():
                self._heard_at = time.monotonic()
            else:  # another one may have its name
                self._background = None
            await asyncio.sleep(LOOK_S)

    def await_loss(self) -> str:
        """Why the cluster is lost, once it is. In a thread of its own: a client of Ray that has lost its cluster holds
        up whoever calls."""
        while True:
            time.sleep(LOOK_S)
            heard_at = self._heard_at
            if heard_at is None:
                continue
            if time.monotonic() - heard_at > LOST_S:
                return f"no answer for {LOST_S:g} s"
            if (why := unreachable(self._address)) == REFUSED_THERE:
                return why

    async def _hello(self) -> bool:
        with suppress(CallError, TimeoutError):
            async with asyncio.timeout(HELLO_S):
                with suppress(RefusedFormError):
                    answer = asyncio.ensure_future(self.answer(packed_call("", HELLO, ())))
                    unpacked(*await asyncio.shield(answer))  # Ray has no place for an answer that nobody waits for
            return True
        return False


def unreachable(address: str) -> str:
    """Why; empty where somebody listens."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_S).close()
    except TimeoutError:
        return f"no connection within {CONNECT_S:g} s"
    except ConnectionRefusedError:
        return REFUSED_THERE
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _join(address: str, namespace: str) -> None:
    """Raises whatever Ray does."""
    import ray

    ray.init(address, namespace=namespace, log_to_driver=False, logging_level=logging.ERROR)


def _find_background(namespace: str) -> Any:
    """None where there is none."""
    from dualmap.router.reach.ray_reach import named_actor

    with suppress(NoActorError):
        return named_actor(namespace, BACKGROUND)
    return None


async def _serve(listening: socket.socket, link: Link) -> None:
    async with await asyncio.start_unix_server(Callers(link.answer).serve, sock=listening):
        await link.keep()


def main(socket_fileno: int, address: str, namespace: str) -> None:
    end_with_parent()
    link = Link(address.removeprefix(SCHEME), namespace)
    threading.Thread(target=lambda: _end(f"{address} is lost: {link.await_loss()}"), daemon=True).start()
    try:
        uvloop.run(_serve(socket.socket(fileno=socket_fileno), link))
    except Exception as error:
        _end(f"{address} cannot be joined: {error or repr(error)}")


def _end(why: str) -> None:
    print(why, file=sys.stderr, flush=True)
    os._exit(1)


if __name__ == "__main__":
    main(int(sys.argv[2]), *sys.argv[4:])
