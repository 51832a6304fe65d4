"""The form of a head: all its bytes but the values of a few fields that differ from one message to the next.

One and the same sender writes the same form again and again. What a parser has made of one message holds for all of
that form: no other byte differs, and a value that does is plain text of the same length, or a number.
"""

from collections.abc import Sequence

CONTENT_LENGTH = b"content-length"
LONGEST_FORM_BYTES = 4096  # of a head whose form is kept
MOST_IN_VAIN = 4  # heads of a sender whose form is noted, while it is met with none again
_MOST_DIGITS = 20


class HeadForm:
    """names: of the fields whose values may differ, in lower case, in order."""

    __slots__ = ("_after", "_before", "_digits", "_lines", "_places", "names")

    def __init__(
        self,
        before: Sequence[tuple[bytes, int]],
        after: bytes,
        names: Sequence[bytes],
        lines: list[bytes],
        places: Sequence[tuple[int, int, bytes]],
    ) -> None:
        """before: what stands before each value, and how long that is; 0: it is a number of any length. after: what
        ends the head. lines: of the head, as they are relayed. places: of the lines with such a value: which line,
        which value, and what stands before it."""
        self._before = tuple(before)
        self._after = after
        self._digits = 1  # of the last number: most have as many
        self._lines = lines
        self._places = tuple(places)
        self.names = tuple(names)

    def match(self, data: bytes) -> tuple[list[bytes], int] | None:
        """The values in a head of this form at the beginning of the data, and where the head ends; None where there is
        no such head."""
        values = []
        end = 0
        for before, length in self._before:
            start = end + len(before)
            if data[end:start] != before:
                return None
            end = start + (length or self._digits)
            value = data[start:end]
            if length:
                if not _is_word(value):
                    return None
            elif data[end : end + 1] != b"\r" or not value.isdigit():
                end = data.find(b"\r", start, start + _MOST_DIGITS)
                if end < 0:  # a slice that ends before it begins is an error in machine code
                    return None
                value = data[start:end]
                if not value.isdigit():
                    return None
                self._digits = end - start
            values.append(value)
        head_bytes = end + len(self._after)
        return (values, head_bytes) if data[end:head_bytes] == self._after else None

    def lines(self, values: Sequence[bytes]) -> list[bytes]:
        """Lines of a head with these values, as they are relayed. The list is not to be changed."""
        if not self._places:
            return self._lines
        lines = self._lines.copy()
        for line, value, before in self._places:
            lines[line] = before + values[value] + b"\r\n"
        return lines


def _is_word(value: bytes) -> bool:
    """Whether it is plain ASCII without space around it, which parsers take as it stands."""
    return value.isascii() and value.decode().isprintable() and value[:1] != b" " != value[-1:]


def form_of(
    data: bytes,
    first_line: bytes,
    fields: Sequence[tuple[bytes, bytes]],
    lines: list[bytes],
    varying: frozenset[bytes],
) -> HeadForm | None:
    """The form of the head at the beginning of the data, as which a parser has read these fields; None where the head
    is long or is not written plainly, so that some other program could read it otherwise. lines: of the head, as they
    are relayed. varying: names, in lower case, of fields whose values may differ."""
    before: list[tuple[bytes, int]] = []
    names: list[bytes] = []
    values: list[bytes] = []
    places: list[tuple[int, int, bytes]] = []
    since = [first_line]
    for name, value in fields:
        line = b"%b: %b\r\n" % (name, value)
        lower = name.lower()
        if lower not in varying:
            since.append(line)
            continue
        if line in lines:
            places.append((lines.index(line), len(names), name + b": "))
        before.append((b"%b%b: " % (b"".join(since), name), 0 if lower == CONTENT_LENGTH else len(value)))
        names.append(lower)
        values.append(value)
        since = [b"\r\n"]
    form = HeadForm(before, b"".join((*since, b"\r\n")), names, lines, places)
    found = form.match(data)
    plain = found is not None and found[0] == values and found[1] <= LONGEST_FORM_BYTES
    return form if plain and len(set(names)) == len(names) else None
