"""Records of more than three fields are made by keyword: what stands fourth in a call, nobody knows by heart."""

import dataclasses
import importlib
import pkgutil

import pytest

from dualmap import scheduler

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
