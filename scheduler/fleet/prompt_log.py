"""The last prompts that were sent, as many as their blocks allow: a prompt of megabytes has thousands."""

from collections import deque
from collections.abc import Iterator
from typing import Generic, Protocol, TypeVar

PROMPT_BLOCKS = 8  # what a prompt takes besides its blocks, in blocks of some 40 bytes


class Sized(Protocol):
    """What is logged: it says how many blocks it holds."""

    @property
    def block_count(self) -> int: ...


T = TypeVar("T", bound=Sized)


class PromptLog(Generic[T]):
    """The oldest are dropped where there are more than max_blocks in all."""

    def __init__(self, max_blocks: int) -> None:
        self._max_blocks = max_blocks
        self._blocks = 0
        self._prompts: deque[T] = deque()

    def __len__(self) -> int:
        return len(self._prompts)

    def __iter__(self) -> Iterator[T]:
        return iter(self._prompts)

    def __reversed__(self) -> Iterator[T]:
        return reversed(self._prompts)

    def append(self, prompt: T) -> None:
        self._prompts.append(prompt)
        self._blocks += prompt.block_count + PROMPT_BLOCKS
        while self._blocks > self._max_blocks and len(self._prompts) > 1:
            self._blocks -= self._prompts.popleft().block_count + PROMPT_BLOCKS

    def clear(self) -> None:
        self._prompts.clear()
        self._blocks = 0
