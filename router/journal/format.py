"""What a journal's lines hold, as JSON: a header, then one record for each event the core was told.

    {"journal":"dualmap","version":1,"about":{"gateway":"gateway-0"},"config":{"policy":"dualmap",...}}
    {"t":12.5,"event":"RequestArrived","request":{"id":"r1",...},"commands":[{"command":"Dispatch",...}]}
    {"t":12.6,"event":"Tick"}
    {"end":"stopped"}

Values come back exactly as they were written: floats to the last bit, block hashes as 64-bit integers. Types of events
and commands are read from their unions, so that those to come are covered.
"""

import dataclasses
import math
import typing
from collections.abc import Mapping
from typing import Any

import msgspec

from dualmap.scheduler.commands import Command
from dualmap.scheduler.config import SchedulerConfig
from dualmap.scheduler.events import Event

FORMAT = "dualmap"
VERSION = 1
EVENT_TYPES: tuple[type, ...] = typing.get_args(Event)
COMMAND_TYPES: tuple[type, ...] = typing.get_args(Command)
# JSON has no infinity and no NaN, msgspec writes null in their place; here they are {"float": "inf"}.
_FLOAT = "float"
_FLOAT_MARK = b'{"float":'


class JournalError(Exception):
    """The journal cannot be read; the message names the file and the line."""


@dataclasses.dataclass(frozen=True, slots=True)
class Header:
    """notes: where its configuration and that of this version differ in their keys."""

    config: SchedulerConfig
    about: dict[str, str]
    notes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class Record:
    """An event and what the core answered. error: the exception it raised instead, empty if none."""

    t: float
    event: Event
    commands: tuple[Command, ...]
    error: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class End:
    """The last line of a journal that was closed, with the reason."""

    end: str


def describe_error(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


# From values to lines.

_encoder = msgspec.json.Encoder(order="deterministic")


def encode_header(config: SchedulerConfig, about: Mapping[str, str]) -> bytes:
    values = {"journal": FORMAT, "version": VERSION, "about": dict(about), "config": dataclasses.asdict(config)}
    return msgspec.json.encode(_mark_floats(values)) + b"\n"


def encode_end(reason: str) -> bytes:
    return _encoder.encode(End(reason)) + b"\n"


def encode_record(record: Record) -> bytes:
    """Raises TypeError, ValueError or OverflowError for what JSON cannot hold."""
    line = b'{"t":%b,"event":%b' % (_encoder.encode(record.t), _fields(record.event))
    if record.commands:
        line += b',"commands":[%b]' % b",".join(b'{"command":%b}' % _fields(c) for c in record.commands)
    if record.error:
        line += b',"error":%b' % _encoder.encode(record.error)
    line += b"}\n"
    if b"null" in line and not _reads_as(line, record):  # a float that is not finite
        return _encode_marked(record)
    return line


def _fields(value: Event | Command) -> bytes:
    """The type's name and the fields, without the braces."""
    fields = _encoder.encode(value)[1:-1]
    name = b'"%b"' % type(value).__name__.encode()
    return name + b"," + fields if fields else name


def _reads_as(line: bytes, record: Record) -> bool:
    try:
        return decode_line(line) == record
    except msgspec.MsgspecError:
        return False


def _encode_marked(record: Record) -> bytes:
    def named(kind: str, value: Event | Command) -> dict[str, Any]:
        return {kind: type(value).__name__, **{f.name: getattr(value, f.name) for f in dataclasses.fields(value)}}

    values: dict[str, Any] = {"t": record.t, **named("event", record.event)}
    if record.commands:
        values["commands"] = [named("command", command) for command in record.commands]
    if record.error:
        values["error"] = record.error
    return _encoder.encode(_mark_floats(values)) + b"\n"


def _mark_floats(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return {_FLOAT: repr(value)}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _mark_floats(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {key: _mark_floats(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_mark_floats(item) for item in value]
    return value


# From lines to values.


def _tagged(cls: type, tag_field: str, more: list[tuple[str, Any, Any]]) -> type[msgspec.Struct]:
    """A struct with the fields of the dataclass, chosen among its like by its name."""
    hints = typing.get_type_hints(cls)
    fields: list[Any] = []
    for field in dataclasses.fields(cls):
        if field.default is not dataclasses.MISSING:
            fields.append((field.name, hints[field.name], field.default))
        elif field.default_factory is not dataclasses.MISSING:
            fields.append((field.name, hints[field.name], msgspec.field(default_factory=field.default_factory)))
        else:
            fields.append((field.name, hints[field.name]))
    if taken := {name for name, *_ in fields} & {tag_field, *(name for name, *_ in more)}:
        raise TypeError(f"{cls.__name__} has a field named {', '.join(taken)}, which the journal uses itself")
    return msgspec.defstruct(
        cls.__name__, fields + more, tag_field=tag_field, tag=cls.__name__, forbid_unknown_fields=True, kw_only=True
    )


class _Line(msgspec.Struct):
    end: str = ""


_no_t: Any = msgspec.NODEFAULT
_command_structs = [_tagged(cls, "command", []) for cls in COMMAND_TYPES]
_AnyCommand: Any = typing.Union[tuple(_command_structs)]  # noqa: UP007
_event_structs = [
    _tagged(cls, "event", [("t", float, _no_t), ("commands", tuple[_AnyCommand, ...], ()), ("error", str, "")])
    for cls in EVENT_TYPES
]
_AnyEvent: Any = typing.Union[tuple(_event_structs)]  # noqa: UP007
_decoder = msgspec.json.Decoder(_AnyEvent)
_line_decoder = msgspec.json.Decoder(_Line)
_types: dict[type, tuple[type, tuple[str, ...]]] = {
    struct: (cls, tuple(field.name for field in dataclasses.fields(cls)))
    for struct, cls in zip(_event_structs + _command_structs, EVENT_TYPES + COMMAND_TYPES, strict=True)
}


def decode_line(line: bytes) -> Record | End:
    """Raises msgspec.MsgspecError, or ConfigError for an impossible value."""
    if line.startswith(b'{"end":'):
        return End(_line_decoder.decode(line).end)
    if _FLOAT_MARK in line:
        struct = msgspec.convert(_unmark_floats(msgspec.json.decode(line)), _AnyEvent)
    else:
        struct = _decoder.decode(line)
    return Record(struct.t, _value(struct), tuple(map(_value, struct.commands)), struct.error)


def _value(struct: Any) -> Any:
    cls, names = _types[type(struct)]
    return cls(**{name: getattr(struct, name) for name in names})


def decode_header(line: bytes) -> Header:
    """Raises msgspec.MsgspecError, ValueError where it is no header of this version, or ConfigError."""
    values = _unmark_floats(msgspec.json.decode(line))
    if not isinstance(values, dict) or values.get("journal") != FORMAT:
        raise ValueError("this is no journal of DualMap")
    if values.get("version") != VERSION:
        raise ValueError(f"this journal has format version {values.get('version')!r}, not {VERSION}")
    given = msgspec.convert(values.get("config"), dict[str, Any])
    known = {field.name for field in dataclasses.fields(SchedulerConfig)}
    notes = [f"the configuration key {name} is not known here: left out" for name in sorted(given.keys() - known)]
    notes += [f"the journal does not say {name}: its default is used" for name in sorted(known - given.keys())]
    config = msgspec.convert({name: value for name, value in given.items() if name in known}, SchedulerConfig)
    return Header(config, msgspec.convert(values.get("about", {}), dict[str, str]), tuple(notes))


def _unmark_floats(value: Any) -> Any:
    if isinstance(value, dict):
        if value.keys() == {_FLOAT}:
            return float(value[_FLOAT])
        return {key: _unmark_floats(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_unmark_floats(item) for item in value]
    return value
