"""Fleet's board of what instances keep for clients: each gateway puts up what it learned, and is told what it has not
heard."""

from collections import OrderedDict
from collections.abc import Iterable
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
        self._homes: OrderedDict[str, tuple[int, StateHome]] = OrderedDict()  # by id, numbers ascending

    def put(self, homes: Iterable[StateHome]) -> None:
        for home in homes:
            _, known = self._homes.get(home.state_id, (0, home))
            if known is not home and (known == home or known.owner != home.owner):
                continue
            self._number += 1
            self._homes[home.state_id] = (self._number, home)
            self._homes.move_to_end(home.state_id)
            if len(self._homes) > MAX_STATES:
                self._homes.popitem(last=False)

    def news(self, known: int) -> StateNews | None:
        """What bears a higher number, the lowest first, as much as is told at once; None if nothing does."""
        if known == self._number:
            return None
        news: list[tuple[int, StateHome]] = []
        for number, home in reversed(self._homes.values()):
            if number <= known:
                break
            news.append((number, home))
        told = news[: -MAX_TOLD - 1 : -1]
        number = self._number if len(told) == len(news) else told[-1][0]
        return StateNews(number, tuple(home for _, home in told), tell_all=0 < known < self._first)
