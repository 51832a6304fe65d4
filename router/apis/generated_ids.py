"""The token ids of a stream of `/inference/v1/generate`: all that it has, and all that its client gets."""

from dualmap.router.apis.token_ids import IDS, TokenIds


class GeneratedIds(TokenIds):
    """See TokenIds. The request has those of the prompt."""

    __slots__ = ()

    @property
    def one_by_one(self) -> bool:
        return True

    def _event(self, event: bytes) -> bytes:
        if b'"choices"' in event:
            if not self.first:
                self.first = event
                self.tells = True
            start = event.find(IDS)
            if start >= 0:
                ids = event[start + len(IDS) : event.find(b"]", start)]
                self.add(ids, bool(ids))
        return event
