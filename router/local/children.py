"""The child processes of a deployment without Ray, to a process without an event loop: a thread has one."""

import asyncio
import concurrent.futures
import tempfile
import threading
from collections.abc import Callable, Coroutine, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar

from dualmap.router.local.child import Child, Made
from dualmap.router.local.owned_folder import owned_folder
from dualmap.router.local.process import MODULE
from dualmap.router.reach.reach import CallError

T = TypeVar("T")

STOP_TIMEOUT_S = 5.0
PREFIX = "dualmap-local-"  # of the folder of sockets


class LocalCall:
    def __init__(self, running: "concurrent.futures.Future[Any]") -> None:
        self._running = running

    def done(self) -> bool:
        return self._running.done()

    def result(self, timeout_s: float | None = None) -> Any:
        try:
            return self._running.result(timeout_s)
        except TimeoutError:
            raise CallError(f"no answer within {timeout_s:g} s") from None
        except concurrent.futures.CancelledError:
            raise CallError("the process has ended") from None


class LocalHandle:
    """process: that has the actor. only: it ends with this actor."""

    def __init__(self, children: "Children", process: str, actor: str, only: bool) -> None:
        self._children = children
        self._process = process
        self._actor = actor
        self._only = only

    def call(self, method: str, *arguments: Any) -> LocalCall:
        return self._children.begin(self._process, self._actor, method, *arguments)

    def kill(self) -> None:
        if self._only:
            self._children.end(self._process)


class Children:
    """log_path: gets what the processes print; None: it goes where this one's errors go. say: is told when one is
    started again; from another thread."""

    def __init__(self, log_path: Path | None, say: Callable[[str], None]) -> None:
        """Raises OSError where no folder can be made."""
        if log_path is not None:
            log_path.parent.mkdir(parents=True, exist_ok=True)
        self._stack = ExitStack()
        self.folder = str(self._stack.enter_context(owned_folder(Path(tempfile.gettempdir()), PREFIX)))
        self._log_path = log_path
        self._say = say
        self._children: dict[str, Child] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="children", daemon=True)
        self._thread.start()

    def start(self, process: str, modules: Sequence[str]) -> None:
        """Unless it is there. modules: that it imports at once. Raises OSError."""
        if process not in self._children:
            self._children[process] = self._do(self._child(process, modules, self._say))

    def start_program(self, process: str, program: str, *arguments: str) -> None:
        """One that is no process for actors: it says itself in its log why it ends. Raises OSError."""
        self._children[process] = self._do(self._child(process, arguments, lambda line: None, program))

    def make(self, process: str, cls: str, actor: str, arguments: tuple[Any, ...]) -> None:
        """Have an actor of a class, module:class, made now and whenever the process is started again. Waits for
        nothing: calls of it do."""
        self._loop.call_soon_threadsafe(self._children[process].make, Made(cls, actor, arguments))

    def begin(self, process: str, actor: str, method: str, *arguments: Any) -> LocalCall:
        child = self._children.get(process)
        if child is None:
            raise CallError("the process was ended")
        return LocalCall(asyncio.run_coroutine_threadsafe(child.call(actor, method, *arguments), self._loop))

    def end(self, process: str) -> None:
        """It is gone when this returns."""
        child = self._children.pop(process, None)
        if child is not None:
            self._do(child.end())

    def close(self) -> None:
        """Leaves no process; may be called twice."""
        for process in list(self._children):
            self.end(process)
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(STOP_TIMEOUT_S)
            self._loop.close()
        self._stack.close()

    async def _child(
        self, process: str, arguments: Sequence[str], say: Callable[[str], None], program: str = MODULE
    ) -> Child:
        return Child(process, arguments, self.folder, self._log_path, say, program)

    def _do(self, what: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(what, self._loop).result()
