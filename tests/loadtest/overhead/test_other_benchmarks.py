"""The benchmarks of the endpoint picker and of several gateways: that they measure. What they find is not checked."""

import pytest

from dualmap.instances.server.start import free_ports
from dualmap.loadtest.overhead import picker, scaling
from dualmap.loadtest.overhead.load import Load
from dualmap.loadtest.overhead.measured_proxy import ProxyError, backends
from dualmap.loadtest.overhead.send import send


def test_a_picker_is_asked_as_envoy_asks_and_its_cpu_is_told(monkeypatch):
    monkeypatch.setattr(picker, "REQUESTS", 20)
    assert all(us > 0 for us in picker.measure(rounds=2))


def test_gateways_side_by_side_answer_their_loads_and_their_cpu_is_told(monkeypatch):
    monkeypatch.setattr(scaling, "REQUESTS", 40)
    per_s, cpu_us = scaling.measure(gateways=2).split(" | ")
    assert float(per_s) > 0
    assert float(cpu_us) > 0


def test_a_load_that_is_not_answered_is_an_error_that_names_the_proxy(tmp_path):
    (port,) = free_ports("127.0.0.1", 1)
    with backends([port], tmp_path), pytest.raises(ProxyError, match="the load on nobody did not end"):
        send(Load(*free_ports("127.0.0.1", 1)), "nobody")
