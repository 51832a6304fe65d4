"""A stream's server-sent events on their way to the client: each whole and at once, but for those that concern the
gateway.

Text of an answer never passes for one of these: the quotes inside JSON strings are escaped.
"""

import re

MAX_HELD_BYTES = 256 * 1024  # far above the event of a token; what grows larger is not kept in memory

ABORTED = re.compile(rb'"finish_reason"\s*:\s*"abort"')  # vLLM: the server shuts down, as no client asked for it
_EVENT_END = re.compile(rb"\r?\n\r?\n")
_ERROR = re.compile(rb'^data: ?\{"error": ?\{', re.MULTILINE)
_CLIENT_ERROR = re.compile(rb'"code"\s*:\s*"?4\d\d\b')
_NO_CHOICES = b'"choices":[]'
_USAGE = re.compile(rb'"usage"\s*:\s*\{')
_ROLE = re.compile(rb'"delta"\s*:\s*\{\s*"role"\s*:\s*"\w+"\s*,\s*"content"\s*:\s*""\s*\}')
_TOKEN = re.compile(rb'(data: \{.*"(?:delta":\{"\w+|text)":")[^"]*(".*"finish_reason":null.*\}\n\n)')
_NOT_YET = b"\0"  # no event begins so


class AnswerEvents:
    """hides_usage: the final event with `usage` was asked for by the gateway alone. failed: the instance ended the
    answer by itself, with finish_reason "abort" or an error that is not the client's fault; nothing is fed after that.
    usage_event: the one that was hidden, else empty."""

    __slots__ = ("_held", "_hides_usage", "_opened", "_text_end", "_text_start", "failed", "usage_event")

    def __init__(self, hides_usage: bool) -> None:
        self.failed = False
        self.usage_event = b""
        self._hides_usage = hides_usage
        self._held = b""
        self._opened = False  # there has been an event other than a chat's roles, which precede its first tokens
        self._text_start = self._text_end = _NOT_YET  # what stands around the text of a token in this stream

    def feed(self, body: bytes, complete: bool) -> bytes:
        """Take what has come, the last of it if complete; returns what can be relayed.

        Most reads are one more token, or whole events of no concern: nothing is parsed to see it, 0.2 us or 0.6 us.
        """
        if body.startswith(self._text_start) and body.endswith(self._text_end) and not self._held:
            if body.find(b'"', len(self._text_start), -len(self._text_end)) < 0:
                return body
        elif self._held:
            body = self._held + body
            self._held = b""
        if (
            self._opened
            and body.endswith(b"\n\n")
            and b'"abort"' not in body
            and b'{"error"' not in body
            and not (self._hides_usage and _NO_CHOICES in body)
        ):
            return body
        return self._sift(body, complete)

    def _sift(self, body: bytes, complete: bool) -> bytes:
        relayed: list[bytes] = []
        start = 0
        ends = [match.end() for match in _EVENT_END.finditer(body)]
        if complete:
            ends.append(len(body))
        for end in ends:
            event = body[start:end]
            start = end
            if _is_failure(event):
                self.failed = True
                return b"".join(relayed) if self._opened else b""
            if self._hides_usage and _NO_CHOICES in event and _USAGE.search(event):
                self.usage_event = event
                continue
            relayed.append(event)
            if not self._opened and not _ROLE.search(event):
                self._opened = True
                if token := _TOKEN.fullmatch(event):
                    self._text_start, self._text_end = token.groups()
        whole, cut = b"".join(relayed), body[start:]
        held = cut if self._opened else whole + cut
        if complete or len(held) > MAX_HELD_BYTES:
            self._opened = True
            return whole + cut
        self._held = held
        return whole if self._opened else b""


def _is_failure(event: bytes) -> bool:
    return bool(ABORTED.search(event) or (_ERROR.search(event) and not _CLIENT_ERROR.search(event)))
