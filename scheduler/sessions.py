"""Where the last request of each session ran: a hint, for what blocks are too coarse to tell."""

MAX_SESSIONS = 65_536  # names come from clients; a session takes some 200 bytes


class Sessions:
    """Remembers the last max_sessions / 2 sessions at least, and max_sessions at most. Two dictionaries take turns
    instead of an order of use: O(1) a request."""

    def __init__(self, max_sessions: int = MAX_SESSIONS) -> None:
        self._half = max_sessions // 2
        self._young: dict[int, str] = {}
        self._old: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self._young.keys() | self._old.keys())

    def ran_at(self, session: int) -> str | None:
        """The instance; None where nothing is known of the session."""
        return self._young.get(session) or self._old.get(session)

    def note(self, session: int, instance_id: str) -> None:
        """A request of the session runs there."""
        self._young[session] = instance_id
        if len(self._young) >= self._half:
            self._old = self._young
            self._young = {}

    def check(self) -> None:
        """Raise AssertionError where more is remembered than may be, or what names no session."""
        assert max(len(self._young) + 1, len(self._old)) <= self._half, "more sessions than may be"
        assert self.ran_at(0) is None, "a session that has no name"
