"""Where the publisher of a server's KV events is found (instances/kv_events/stream.py)."""

import pytest

from dualmap.instances.kv_events.stream import connect_address


@pytest.mark.parametrize(
    ("endpoint", "host", "address"),
    [
        ("tcp://*:5557", "10.0.0.7", "tcp://10.0.0.7:5557"),
        ("tcp://*:5557", "vllm-0.svc", "tcp://vllm-0.svc:5557"),
        ("tcp://*:5557", "fd00::7", "tcp://[fd00::7]:5557"),
        ("tcp://0.0.0.0:5557", "10.0.0.7", "tcp://10.0.0.7:5557"),
        ("tcp://[::]:5557", "fd00::7", "tcp://[fd00::7]:5557"),
        ("tcp://10.0.0.9:5557", "10.0.0.7", "tcp://10.0.0.9:5557"),
        ("ipc:///run/kv", "10.0.0.7", "ipc:///run/kv"),
    ],
)
def test_an_endpoint_that_is_bound_everywhere_is_found_at_the_servers_host(endpoint, host, address):
    assert connect_address(endpoint, host) == address
