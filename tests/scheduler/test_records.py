"""Records of more than three fields are made by keyword: what stands fourth in a call, nobody knows by heart. They
travel between processes, of which one may be compiled and another not."""

import copy
import copyreg
import dataclasses
import importlib
import pickle
import pkgutil

import pytest

from dualmap import scheduler
from dualmap.scheduler import Dispatch, InstanceCapacity, Request, RequestArrived, SchedulerConfig
from dualmap.scheduler.request import ChoiceReason
from dualmap.scheduler.snapshot import Snapshot, WaitingSnapshot

MODULES = [module.name for module in pkgutil.walk_packages(scheduler.__path__, "dualmap.scheduler.")]


@pytest.mark.parametrize("name", MODULES)
def test_no_record_takes_more_than_three_fields_by_their_place(name: str):
    records = [
        value
        for value in vars(importlib.import_module(name)).values()
        if isinstance(value, type) and dataclasses.is_dataclass(value) and value.__module__ == name
    ]
    by_place = {
        record.__name__: [field.name for field in dataclasses.fields(record) if field.init and not field.kw_only]
        for record in records
    }
    assert not {record: fields for record, fields in by_place.items() if len(fields) > 3}


REQUEST = Request("r", (2**63, 7), 1000, ttft_slo_s=None, only=("a",))
WAITING = WaitingSnapshot("r", "a", 5.0, ahead_tokens=0, work_tokens={"a": 7}, candidates=("a", "b"))
RECORDS = [
    REQUEST,
    RequestArrived(REQUEST),
    Dispatch("r", 1, "a", reason=ChoiceReason.WARM, queued_s=0.5, estimated_ttft_s=1.0, cached_tokens=3),
    Snapshot(1, (), (WAITING,), recompute_price=2.0),
    SchedulerConfig(policy="round_robin"),
    InstanceCapacity(weight=None),
]


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_a_record_is_pickled_in_the_same_form_compiled_or_not(record):
    assert pickle.loads(pickle.dumps(record)) == copy.deepcopy(record) == record
    make, arguments, state = record.__reduce_ex__(4)[:3]
    assert (make, arguments) == (copyreg.__newobj__, (type(record),))
    values = {field.name: getattr(record, field.name) for field in dataclasses.fields(record)}
    assert state == (
        list(values.values()) if isinstance(record, SchedulerConfig | InstanceCapacity) else (None, values)
    )


def test_the_types_of_fields_are_those_of_the_source():
    types = {field.name: field.type for field in dataclasses.fields(Request)}
    assert (types["blocks"], types["ttft_slo_s"], types["priority"]) == (tuple[int, ...], float | None, int)
    assert {field.name: field.type for field in dataclasses.fields(RequestArrived)} == {"request": Request}
