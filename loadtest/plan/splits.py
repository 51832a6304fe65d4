"""Ways to divide a number of instances, and which of them to look at. Pure."""

from collections.abc import Collection
from typing import NamedTuple

_ALL_UP_TO = 9  # instances whose every split is looked at
_FIRST = 8  # else as many steps from one end to the other
_FINEST = 32  # a step below this share of the instances is less than what runs can tell apart


class Split(NamedTuple):
    """prefill: of the instances, how many compute prompts for the others, which answer; 0: each does both, in steps of
    step_tokens; 0: in those of the model."""

    instances: int
    prefill: int = 0
    step_tokens: int = 0

    @property
    def decode(self) -> int:
        return self.instances - self.prefill if self.prefill else 0

    @property
    def name(self) -> str:
        return f"{self.prefill} + {self.decode}" if self.prefill else f"mixed{self._steps(',')}"

    @property
    def in_words(self) -> str:
        if self.prefill:
            return f"{self.prefill} prefill + {self.decode} decode"
        mixed = f"{self.instances} mixed instances" if self.instances > 1 else "1 instance"
        return f"{mixed}{self._steps(' with')}"

    def _steps(self, joined: str) -> str:
        return f"{joined} steps of {self.step_tokens} tokens" if self.step_tokens else ""


def first_splits(instances: int) -> list[Split]:
    """In the order of their instances that prefill, mixed ones first."""
    steps = instances if instances <= _ALL_UP_TO else _FIRST
    return [Split(instances, round(instances * step / steps)) for step in range(steps)]


def finer_splits(known: Collection[Split], best: Split) -> list[Split]:
    """Those halfway from the best to what is known beside it; none where that is near enough."""
    instances, at = best.instances, best.prefill
    least = max(instances // _FINEST, 1)
    places = {*(split.prefill for split in known), 0, instances}
    below, above = max(n for n in places if n < at or n == 0), min(n for n in places if n > at or n == instances)
    found = [(below + at) // 2, (at + above + 1) // 2]
    return [Split(instances, n) for n in found if at and min(abs(n - place) for place in places) >= least]


def like(split: Split, instances: int, step_tokens: Collection[int] = ()) -> list[Split]:
    """For another number of instances: mixed ones, with such steps, too, the split of the same shares, and those one
    instance beside it."""
    middle = round(split.prefill / split.instances * instances) or instances // 2
    mixed = [Split(instances, step_tokens=tokens) for tokens in (0, *step_tokens)]
    return mixed + [Split(instances, n) for n in range(middle - 1, middle + 2) if 0 < n < instances]
