"""A plain answer on its way to the client: held until it is complete, or relayed as it comes."""

from dualmap.router.requests.answer_events import ABORTED

# A chat's longest answers are some 100 KiB, and such an answer comes all at once: holding it delays nothing, and an
# instance that dies in its midst costs nothing. Larger ones (batches of embeddings, audio) would be kept for too many
# clients at once.
MAX_HELD_BYTES = 1024 * 1024


class HeldAnswer:
    """failed: the instance aborted it."""

    __slots__ = ("_pieces", "failed")
    usage_event = b""  # it is part of the whole

    def __init__(self) -> None:
        self.failed = False
        self._pieces: list[bytes] = []

    def feed(self, body: bytes, complete: bool) -> bytes:
        """Take what has come, the last of it if complete; returns what can be relayed."""
        self._pieces.append(body)
        if not complete:
            return b""
        whole = b"".join(self._pieces)
        self.failed = b'"abort"' in whole and ABORTED.search(whole) is not None
        return whole


class PassedAnswer:
    """Relayed as it comes."""

    __slots__ = ()
    failed = False
    usage_event = b""

    def feed(self, body: bytes, complete: bool) -> bytes:
        return body


PASSED = PassedAnswer()
