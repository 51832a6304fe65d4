"""A part of what `python -m tests.fuzz` does, and that it notices what it looks for."""

import time

import pytest

from tests.fuzz import run as running
from tests.fuzz.run import BrokenPropertyError, run
from tests.fuzz.target import Target
from tests.fuzz.targets import TARGETS, target_named

SEED = 1
LONG_S = 600.0  # the count ends it
SLOW = ("config", "keys", "proxies")  # a millisecond each
KNOWN = "requests"  # whose corpus the made targets take


@pytest.mark.parametrize("name", TARGETS)
def test_no_input_of_the_corpus_and_none_made_of_it_breaks_a_property(name):
    inputs = 1000 if name in SLOW else 4000
    assert run(target_named(name), LONG_S, inputs, SEED) == inputs


def test_an_input_that_raises_is_told_as_short_as_it_can_be():
    def check(data: bytes) -> None:
        if b"Host" in data:
            raise KeyError("no")

    with pytest.raises(BrokenPropertyError, match=r"requests: KeyError\('no'\) by b'.Host'$"):
        run(Target(KNOWN, check), LONG_S, 1000, SEED)


def test_an_input_that_takes_long_is_told(monkeypatch):
    monkeypatch.setattr(running, "MOST_CPU_S", 0.01)

    def check(data: bytes) -> None:
        until = time.thread_time() + 0.02
        while time.thread_time() < until:
            pass

    with pytest.raises(BrokenPropertyError, match="s of CPU by"):
        run(Target(KNOWN, check), LONG_S, 1, SEED)


def test_a_target_that_grows_is_told():
    kept = []

    with pytest.raises(BrokenPropertyError, match="MiB more after 1000 inputs"):
        run(Target(KNOWN, lambda data: kept.append(bytearray(100_000))), LONG_S, 1000, SEED)
