"""How the messages of a chat are put into one text: a row of roles and contents, in which what stands beside a text is
marked."""

from contextlib import suppress
from typing import Any

import msgspec

BYTES_PER_BLOCK_TOKEN = 4  # fixed, whatever ratio is learned: block boundaries must never shift
PART, FIELD = "\x1d", "\x1f"  # JSON can spell these, but no prompt has a reason to

Spelled = list[str]  # two for each message: its role, its content


def spell(messages: Spelled, role: str, content: str) -> None:
    """Add a message."""
    messages.append(role)
    messages.append(content)


def field_text(name: str, value: str) -> str:
    """What stands beside a message's content, behind it."""
    return f"{PART}{name}{FIELD}{value}"


def call_text(name: Any, arguments: Any, call_id: Any) -> str:
    """A call of a tool. arguments: JSON, or what that stands for."""
    if type(arguments) is str:
        with suppress(msgspec.DecodeError, RecursionError):
            arguments = msgspec.json.decode(arguments)
    return field_text("call", in_order([name, arguments, call_id]))


def in_order(value: Any) -> str:
    """JSON with sorted keys."""
    return msgspec.json.encode(value, order="sorted").decode()
