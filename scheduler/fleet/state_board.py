"""Fleet's board of what instances keep for clients: each gateway puts up what it learned, and is told what it has not
heard."""

from collections import OrderedDict
from collections.abc import Iterable
from itertools import islice
from typing import NamedTuple

MAX_STATES = 100_000  # ids known at once; the one learned longest ago goes
MAX_TOLD = 5_000  # at once, either way: half a megabyte


class StateHome(NamedTuple):
    """A response or conversation, by its id, the instance that keeps it, and who may go on from it; owner: empty where
    no API keys are asked for."""

    state_id: str
    instance_id: str
    owner: str


class StateNews(NamedTuple):
    """number: what the gateway says next time. tell_all: it knows what another Fleet told, so that this one does not
    know what it knows."""

    number: int
    homes: tuple[StateHome, ...]
    tell_all: bool = False


class StateBoard:
    """What it tells bears numbers that only grow, also from one Fleet to the next; a gateway says the last one it
    knows."""

    def __init__(self, first_number: int) -> None:
        """first_number: above 0, and above all that the board before this one has given."""
        self._first = self._number = first_number
        self._homes: OrderedDict[int, StateHome] = OrderedDict()  # by number, ascending
        self._numbers: dict[str, int] = {}  # by id

    def put(self, homes: Iterable[StateHome]) -> None:
        for home in homes:
            number = self._numbers.get(home.state_id)
            if number is not None:
                known = self._homes[number]
                if known == home or known.owner != home.owner:
                    continue
                del self._homes[number]
            self._number += 1
            self._homes[self._number] = home
            self._numbers[home.state_id] = self._number
            if len(self._homes) > MAX_STATES:
                _, oldest = self._homes.popitem(last=False)
                del self._numbers[oldest.state_id]

    def news(self, known: int) -> StateNews | None:
        """What bears a higher number, the lowest first, as much as is told at once; None if nothing does."""
        if known == self._number:
            return None
        oldest = next(iter(self._homes), self._number + 1)
        numbers = filter(self._homes.__contains__, range(max(known + 1, oldest), self._number + 1))
        told = list(islice(numbers, MAX_TOLD))
        number = told[-1] if len(told) == MAX_TOLD else self._number
        homes = tuple(self._homes[number] for number in told)
        return StateNews(number, homes, tell_all=0 < known < self._first)
