"""Which instance keeps what for whom: what this gateway learned of responses and conversations by itself, and what it
heard from the others."""

from collections import OrderedDict, deque
from collections.abc import Iterable

from dualmap.scheduler.fleet.state_board import MAX_STATES, StateHome


class StateHomes:
    """Bounded: what was not used for longest goes."""

    def __init__(self) -> None:
        self._homes: OrderedDict[str, StateHome] = OrderedDict()  # by id
        self._news: deque[StateHome] = deque(maxlen=MAX_STATES)

    def __len__(self) -> int:
        return len(self._homes)

    def note(self, home: StateHome) -> bool:
        """An instance keeps it. Whether that is new."""
        if not self._put(home):
            return False
        self._news.append(home)
        return True

    def find(self, state_id: str, owner: str) -> str | None:
        """The instance that keeps it for the owner; None where there is none. What others own is not told from what
        nobody has heard of."""
        home = self._homes.get(state_id)
        if home is None or home.owner != owner:
            return None
        self._homes.move_to_end(state_id)
        return home.instance_id

    def take_news(self) -> list[StateHome]:
        """What was noted since the last call."""
        news = list(self._news)
        self._news.clear()
        return news

    def all(self) -> list[StateHome]:
        return list(self._homes.values())

    def hear(self, homes: Iterable[StateHome]) -> None:
        """What any of the gateways has noted."""
        for home in homes:
            self._put(home)

    def _put(self, home: StateHome) -> bool:
        """Whoever makes an instance use an id once more does not get what another one owns."""
        known = self._homes.get(home.state_id)
        if known is not None and (known == home or known.owner != home.owner):
            return False
        self._homes[home.state_id] = home
        self._homes.move_to_end(home.state_id)
        if len(self._homes) > MAX_STATES:
            self._homes.popitem(last=False)
        return True
