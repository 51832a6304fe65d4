"""The addresses of names in URLs of instances, followed as DNS changes them: a headless service has one for each of its
servers."""

import socket
import threading
from collections.abc import Callable, Collection, Mapping
from time import monotonic

RESOLVE_S = 3.0
FIRST_S = 5.0  # that a deployment waits for the first answers
MISSED = 2  # answers in a row without an address, until it is gone: some servers tell a part of them each time

Resolve = Callable[[str], Collection[str]]


def resolve(name: str) -> set[str]:
    """IPv4, or IPv6 where there is nothing else: a server has both, perhaps, and is one. Raises OSError."""
    found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    families = {family for family, *_ in found}
    family = socket.AF_INET if socket.AF_INET in families else socket.AF_INET6
    return {str(address[0]) for kind, *_, address in found if kind == family}


class NameWatch:
    """found: addresses by name, of names that were ever resolved. While DNS does not answer, they stay."""

    def __init__(self, resolve: Resolve = resolve) -> None:
        self.found: Mapping[str, frozenset[str]] = {}
        self._resolve = resolve
        self._names: frozenset[str] = frozenset()
        self._missed: dict[tuple[str, str], int] = {}  # by name and address
        self._asking: set[str] = set()  # names, each in a thread: one without an answer delays no other
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def follow(self, names: Collection[str]) -> None:
        """These from now on. Those that are new are asked for before this returns, for a while."""
        with self._lock:
            new = frozenset(names) - self._names
            self._names = frozenset(names)
            self.found = {name: addresses for name, addresses in self.found.items() if name in self._names}
        until = monotonic() + FIRST_S
        for asking in self._ask(new):
            asking.join(max(0.0, until - monotonic()))
        if self._names and self._thread is None:
            self._thread = threading.Thread(target=self._run, name="names", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        self._stop.set()

    def _run(self) -> None:
        while not self._stop.wait(RESOLVE_S):
            self._ask(self._names)

    def _ask(self, names: Collection[str]) -> list[threading.Thread]:
        """Those that were begun: one for each name that is not asked for already."""
        with self._lock:
            due = [name for name in names if name not in self._asking]
            self._asking.update(due)
        begun = [threading.Thread(target=self._look_up, args=(name,), name="name", daemon=True) for name in due]
        for asking in begun:
            asking.start()
        return begun

    def _look_up(self, name: str) -> None:
        addresses = self._addresses(name)
        with self._lock:
            self._asking.discard(name)
            if addresses and name in self._names:
                self.found = {**self.found, name: self._kept(name, addresses)}

    def _addresses(self, name: str) -> Collection[str]:
        try:
            return self._resolve(name)
        except (OSError, ValueError):
            return ()

    def _kept(self, name: str, told: Collection[str]) -> frozenset[str]:
        """Those that were told, and those that were missed only now."""
        missed = {}
        for address in self.found.get(name, frozenset()) - frozenset(told):
            times = self._missed.get((name, address), 0) + 1
            if times < MISSED:
                missed[name, address] = times
        self._missed = {key: times for key, times in self._missed.items() if key[0] != name} | missed
        return frozenset(told) | {address for _, address in missed}
