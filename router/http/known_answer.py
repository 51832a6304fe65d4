"""The head of an instance's answer that has been read before, but for the values of a few fields."""

from collections.abc import Sequence

from dualmap.router.http.answer_head import AnswerHead
from dualmap.router.http.head_form import CONTENT_LENGTH, HeadForm, form_of

VARYING = frozenset({CONTENT_LENGTH, b"date", b"x-request-id"})


class KnownAnswer:
    """Stands for all heads of one form."""

    __slots__ = ("_encoded", "_form", "_html", "_json", "_length", "_status")

    def __init__(self, form: HeadForm, head: AnswerHead) -> None:
        self._form = form
        self._status = head.status
        self._encoded = head.encoded
        self._html = head.html
        self._json = head.json
        self._length = form.names.index(CONTENT_LENGTH)

    def whole(self, data: bytes) -> tuple[AnswerHead, bytes] | None:
        """Head and body of an answer with such a head; None where the data is anything but one whole answer."""
        found = self._form.match(data)
        if found is None:
            return None
        values, head_bytes = found
        length = len(data) - head_bytes
        said = values[self._length]
        if said != b"%d" % length and int(said) != length:  # the first takes a third of the second
            return None
        head = AnswerHead()
        head.status = self._status
        head.lines = self._form.lines(values)
        head.content_length = length
        head.encoded = self._encoded
        head.html = self._html
        head.json = self._json
        head.keep_alive = True
        return head, data[head_bytes:]


def known_answer(head: AnswerHead, data: bytes, fields: Sequence[tuple[bytes, bytes]]) -> KnownAnswer | None:
    """What is known of heads like this one, which stands at the beginning of the data, with these fields; None where
    another such head may mean something else, or where its body has no length."""
    if head.content_length is None or not head.has_body or not head.keep_alive or head.chunked or head.event_stream:
        return None
    if any(name.lower() == b"location" for name, _ in fields):  # it is relayed as seen from the instance at hand
        return None
    first_line = data[: data.find(b"\n") + 1]
    form = form_of(data, first_line, fields, head.lines, VARYING)
    return None if form is None else KnownAnswer(form, head)
