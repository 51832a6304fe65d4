"""LoRA adapters at one instance: those it can run, and those believed to be loaded.

An engine holds a few adapters ready (vLLM: --max-loras); a request for another one waits until one of them goes and
that one is loaded.
"""

from collections import OrderedDict
from collections.abc import Collection, Sequence


class Adapters:
    """able: those it can run, taken to be loaded in this order, as vLLM does when it starts. slots: how many are loaded
    at once; the one not used for longest goes."""

    def __init__(self, able: Sequence[str], slots: int) -> None:
        self._slots = slots
        self._loaded: OrderedDict[str, None] = OrderedDict()
        for adapter in able:
            self.use(adapter)

    @property
    def loaded(self) -> tuple[str, ...]:
        """The one not used for longest first."""
        return tuple(self._loaded)

    def is_loaded(self, adapter: str) -> bool:
        """Also the base model, whose name is empty."""
        return not adapter or adapter in self._loaded

    def use(self, adapter: str) -> None:
        """A request with the adapter was sent there, or runs there."""
        self._loaded[adapter] = None
        self._loaded.move_to_end(adapter)
        if len(self._loaded) > self._slots:
            self._loaded.popitem(last=False)

    def set_able(self, able: Collection[str]) -> None:
        """It can run these, and no others any more."""
        for adapter in [adapter for adapter in self._loaded if adapter not in able]:
            del self._loaded[adapter]
