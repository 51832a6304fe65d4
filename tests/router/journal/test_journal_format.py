"""Every event, command and configuration comes back from a journal's line exactly as it went in."""

import dataclasses
import enum
import math
import types
import typing

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from dualmap.router.journal.format import (
    COMMAND_TYPES,
    EVENT_TYPES,
    Record,
    decode_header,
    decode_line,
    encode_header,
    encode_record,
)
from dualmap.scheduler import Request, SchedulerConfig
from dualmap.scheduler.config import POLICY_NAMES
from dualmap.scheduler.errors import ConfigError
from dualmap.scheduler.events import RequestArrived, Tick

BIG = 2**64 - 1  # the largest block hash
INTS = st.one_of(st.sampled_from((0, 1, BIG, 2**63, 2**53 + 1)), st.integers(0, BIG))
FLOATS = st.one_of(
    st.sampled_from((0.1 + 0.2, 1 / 3, 5e-324, 1.7976931348623157e308, math.inf, 1e16)), st.floats(min_value=0)
)


def values(hint) -> st.SearchStrategy:
    """Values of a field's type. A type it does not know is one that this test must learn, and the journal hold."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint in (int, float, str, bool, type(None)):
        return {int: INTS, float: FLOATS, str: st.text(), bool: st.booleans(), type(None): st.none()}[hint]
    if origin in (typing.Union, types.UnionType):
        return st.one_of(*map(values, arguments))
    if origin is tuple and arguments[1:] == (...,):
        return st.lists(values(arguments[0]), max_size=4).map(tuple)
    if origin is tuple:
        return st.tuples(*map(values, arguments))
    if origin in (list, frozenset, set):
        return st.lists(values(arguments[0]), max_size=4).map(origin)
    if origin is dict:
        return st.dictionaries(*map(values, arguments), max_size=3)
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return st.sampled_from(hint)
    if hint is SchedulerConfig:  # any values would hardly ever be ones that go together
        return st.builds(
            SchedulerConfig,
            policy=st.sampled_from(POLICY_NAMES),
            ttft_slo_s=FLOATS.filter(bool),
            queue_timeout_s=FLOATS.filter(bool),
            max_waiting=st.integers(1, 2**40),
            slo_aware=st.booleans(),
        )
    if dataclasses.is_dataclass(hint):
        return instances(hint)
    raise AssertionError(f"no values known for a field of type {hint}")


def instances(cls: type) -> st.SearchStrategy:
    def make(arguments):
        try:
            return cls(**arguments)
        except ConfigError:
            assume(False)

    hints = typing.get_type_hints(cls)
    return st.fixed_dictionaries({f.name: values(hints[f.name]) for f in dataclasses.fields(cls)}).map(make)


def exactly(value) -> object:
    """Equal only for values that are the same to the last bit, and of the same types."""
    if dataclasses.is_dataclass(value):
        return type(value), [exactly(getattr(value, f.name)) for f in dataclasses.fields(value)]
    if isinstance(value, tuple | list):
        return type(value), [exactly(item) for item in value]
    if isinstance(value, set | frozenset):
        return type(value), sorted(map(repr, value))
    return type(value), value.hex() if isinstance(value, float) else repr(value)


@pytest.mark.parametrize("cls", EVENT_TYPES, ids=lambda cls: cls.__name__)
@settings(max_examples=60)
@given(data=st.data())
def test_every_event_comes_back_exactly(cls, data):
    record = Record(data.draw(FLOATS), data.draw(instances(cls)), ())
    line = encode_record(record)
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    assert exactly(decode_line(line)) == exactly(record)


@pytest.mark.parametrize("cls", COMMAND_TYPES, ids=lambda cls: cls.__name__)
@settings(max_examples=60)
@given(data=st.data(), error=st.text())
def test_every_command_comes_back_exactly(cls, data, error):
    commands = data.draw(st.lists(instances(cls), min_size=1, max_size=3).map(tuple))
    record = Record(1 / 3, Tick(), commands, error)
    assert exactly(decode_line(encode_record(record))) == exactly(record)


def test_a_configuration_comes_back_exactly():
    config = SchedulerConfig(ttft_slo_s=0.1 + 0.2, queue_timeout_s=math.inf, policy="least_loaded", slo_aware=False)
    header = decode_header(encode_header(config, {"gateway": "g"}))
    assert exactly(header.config) == exactly(config)
    assert header.about == {"gateway": "g"}
    assert header.notes == ()


def test_what_is_not_a_number_comes_back():
    record = Record(1.0, RequestArrived(Request("r", (), 5, ttft_slo_s=math.nan)), ())
    assert math.isnan(decode_line(encode_record(record)).event.request.ttft_slo_s)


def test_a_line_can_be_read_by_a_person():
    record = Record(12.5, RequestArrived(Request("r1", (BIG,), 5)), ())
    start = (
        b'{"t":12.5,"event":"RequestArrived","request":{"id":"r1","blocks":[18446744073709551615],"prompt_tokens":5,'
    )
    assert encode_record(record).startswith(start)
    assert encode_record(Record(12.6, Tick(), ())) == b'{"t":12.6,"event":"Tick"}\n'


def test_a_request_of_an_earlier_version_has_no_chain_of_its_own_and_no_session():
    line = encode_record(Record(1.5, RequestArrived(Request("r", (1, 2), 9, key_blocks=(3,), session=BIG)), ()))
    known = decode_line(line).event.request
    assert (known.key_blocks, known.session) == ((3,), BIG)
    earlier = line.replace(b',"key_blocks":[3],"session":%d' % BIG, b"")
    assert earlier != line
    assert decode_line(earlier).event.request == Request("r", (1, 2), 9)
