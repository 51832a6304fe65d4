"""A study of every kind of cell, as a file."""

from pathlib import Path

import pytest

from tests.loadtest import fake_study


@pytest.fixture(scope="session")
def full_study(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("study") / "study.jsonl"
    fake_study.write(path, seeds=2)
    return path
