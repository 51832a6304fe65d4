"""The adapters that were loaded while servers run, remembered for a Fleet that is started again together with the
Watcher, the other one who knows them."""

from contextlib import suppress

from dualmap.router.reach.reach import Call, CallError, Owned
from dualmap.scheduler.fleet.wanted_adapters import WantedAdapters


class RememberedAdapters:
    """fleet: tells what is wanted, and is told; None before it has been started."""

    fleet: Owned | None = None

    def __init__(self) -> None:
        self._known: dict[str, WantedAdapters] = {}  # by pool
        self._call: Call | None = None  # under way

    def round(self) -> None:
        """Waits for nothing."""
        if self._call is not None and self._call.done():
            with suppress(CallError):  # Fleet was away
                self._known |= self._call.result()
            self._call = None
        if self._call is None and self.fleet is not None:
            self._call = self.fleet.call("exchange_adapters", dict(self._known))
