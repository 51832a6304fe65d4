import threading

import pytest

from dualmap.router.deployment import name_watch
from dualmap.router.deployment.name_watch import NameWatch
from tests.conftest import WAIT_S, await_that


@pytest.fixture
def dns(monkeypatch):
    """answers: by name. A name without any is not answered for until `awake` is set. asked: in order."""

    class Dns:
        def __init__(self) -> None:
            self.answers: dict[str, set[str]] = {}
            self.awake = threading.Event()
            self.asked: list[str] = []

        def resolve(self, name: str) -> set[str]:
            self.asked.append(name)
            if name not in self.answers:
                self.awake.wait(WAIT_S)
                raise OSError("no answer")
            return self.answers[name]

    monkeypatch.setattr(name_watch, "RESOLVE_S", 0.01)
    monkeypatch.setattr(name_watch, "FIRST_S", 0.05)
    dns = Dns()
    dns.watch = NameWatch(dns.resolve)
    yield dns
    dns.watch.stop()
    dns.awake.set()


def test_a_name_that_nobody_answers_for_delays_no_other(dns):
    dns.answers["good"] = {"10.0.0.1"}
    dns.watch.follow({"dead", "good"})
    await_that(lambda: dns.watch.found == {"good": {"10.0.0.1"}}, "the name is resolved")
    dns.answers["good"] = {"10.0.0.1", "10.0.0.2"}
    await_that(lambda: dns.watch.found["good"] == {"10.0.0.1", "10.0.0.2"}, "the name is followed")
    assert dns.asked.count("dead") == 1


def test_a_name_is_asked_for_again_once_it_was_not_answered(dns):
    dns.watch.follow({"late"})
    assert dns.watch.found == {}
    dns.awake.set()
    dns.answers["late"] = {"10.0.0.1"}
    await_that(lambda: dns.watch.found == {"late": {"10.0.0.1"}}, "the name is resolved")


def test_what_is_followed_no_more_is_forgotten_also_by_an_answer_that_comes_late(dns):
    dns.answers["a"] = {"10.0.0.1"}
    dns.watch.follow({"a", "late"})
    await_that(lambda: "a" in dns.watch.found, "the name is resolved")
    dns.watch.follow({"b"})
    assert dns.watch.found == {}
    dns.answers |= {"late": {"10.0.0.2"}, "b": {"10.0.0.3"}}
    dns.awake.set()
    await_that(lambda: dns.watch.found == {"b": {"10.0.0.3"}}, "only that name is followed")
