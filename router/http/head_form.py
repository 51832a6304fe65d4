"""The form of a head: all its bytes but the values of a few fields that differ from one message to the next.

One and the same sender writes the same form again and again. What a parser has made of one message holds for all of
that form: no other byte differs, and a value that does is a plain word or a number.
"""

import re
from collections.abc import Sequence

CONTENT_LENGTH = b"content-length"
LONGEST_FORM_BYTES = 4096  # of a head whose form is kept
_LONGEST_VALUE_BYTES = 128
_VALUE = re.compile(rb"[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?")


class HeadForm:
    """names: of the fields whose values may differ, in lower case, in order."""

    __slots__ = ("_after", "_before", "names")

    def __init__(self, before: Sequence[tuple[bytes, bool]], after: bytes, names: Sequence[bytes]) -> None:
        """before: what stands before each value, and whether that is a number. after: what ends the head."""
        self._before = tuple(before)
        self._after = after
        self.names = tuple(names)

    def match(self, data: bytes) -> tuple[list[bytes], int] | None:
        """The values in a head of this form at the beginning of the data, and where the head ends; None where there is
        no such head."""
        values = []
        end = 0
        for before, is_number in self._before:
            if not data.startswith(before, end):
                return None
            start = end + len(before)
            end = data.find(b"\r", start, start + _LONGEST_VALUE_BYTES)
            if end < 0:
                return None
            value = data[start:end]
            if not (value.isdigit() if is_number else _VALUE.fullmatch(value)):
                return None
            values.append(value)
        return (values, end + len(self._after)) if data.startswith(self._after, end) else None


def form_of(
    data: bytes, first_line: bytes, fields: Sequence[tuple[bytes, bytes]], varying: frozenset[bytes]
) -> HeadForm | None:
    """The form of the head at the beginning of the data, as which a parser has read these fields; None where the head
    is long or is not written plainly, so that some other program could read it otherwise. varying: names, in lower
    case, of fields whose values may differ."""
    before: list[tuple[bytes, bool]] = []
    names: list[bytes] = []
    values: list[bytes] = []
    lines = [first_line]
    for name, value in fields:
        lower = name.lower()
        if lower in varying:
            before.append((b"%b%b: " % (b"".join(lines), name), lower == CONTENT_LENGTH))
            names.append(lower)
            values.append(value)
            lines = [b"\r\n"]
        else:
            lines.append(b"%b: %b\r\n" % (name, value))
    form = HeadForm(before, b"".join((*lines, b"\r\n")), names)
    found = form.match(data)
    plain = found is not None and found[0] == values and found[1] <= LONGEST_FORM_BYTES
    return form if plain and len(set(names)) == len(names) else None
