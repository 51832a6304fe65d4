"""Whole deployments without any instance: requests wait until one is there, and the pool goes back to zero."""

import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.conftest import WAIT_S, await_that
from tests.deployment import RAY, Deployment, ask, deployed, free_port
from tests.instances.conftest import SimProcess

SCALING = {"min_replicas": 0, "max_replicas": 2, "scale_to_zero_after_s": 3}
STREAM = {"model": "sim", "messages": [{"role": "user", "content": "Who is there?"}], "max_tokens": 3, "stream": True}


def streamed(deployment: Deployment) -> tuple[list[str], float]:
    """The lines of a stream that are not empty, and the seconds until the first of them came."""
    body = json.dumps(STREAM).encode()
    head = b"POST /v1/chat/completions HTTP/1.0\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body)
    began_at = time.monotonic()
    with socket.create_connection(("127.0.0.1", deployment.port), timeout=WAIT_S) as connection:
        connection.sendall(head + body)
        received = connection.recv(65536)
        first_s = time.monotonic() - began_at
        while piece := connection.recv(65536):
            received += piece
    head, _, body = received.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200"), head
    return [line for line in body.decode().splitlines() if line], first_s


def wanted(deployment: Deployment) -> float:
    lines = deployment.metrics().splitlines()
    return next((float(line.split()[-1]) for line in lines if line.startswith('dualmap_replicas{bound="wanted"')), -1)


def all_of(deployment: Deployment) -> dict:
    return {i: member["state"] for i, member in deployment.members().items()}


def test_requests_for_a_server_that_is_started_by_others_wait_until_it_is_there(tmp_path):
    port = free_port()
    config = {
        "instances": [f"http://127.0.0.1:{port}"],
        "scaling": SCALING,
        "gateway": {"heartbeat_s": 0.5, "count": 2},
    }
    with deployed(directory=tmp_path, config=json.dumps(config)) as deployment, ThreadPoolExecutor(2) as clients:
        await_that(lambda: wanted(deployment) == 0, "nothing is asked for")
        stream = clients.submit(streamed, deployment)
        plain = clients.submit(ask, deployment, "And who is there?", max_tokens=2)
        await_that(lambda: wanted(deployment) == 1, "the plan wants a server")
        assert not stream.done()
        assert not plain.done()
        server = SimProcess("--port", str(port), "--prefill-tokens-per-s", "1000000")
        try:
            lines, first_s = stream.result(timeout=WAIT_S)
            assert lines[0] == ": keep-alive"
            assert first_s < WAIT_S / 2
            assert lines[-1] == "data: [DONE]"
            assert plain.result(timeout=WAIT_S).startswith("gateway-")
            await_that(lambda: wanted(deployment) == 0, "nothing was asked for since")
            assert all_of(deployment) == {f"127.0.0.1:{port}": "ready"}, "it is not ours to stop"
        finally:
            server.clean_up()


@pytest.mark.parametrize("runtime", [pytest.param("ray", marks=RAY)])
def test_own_instances_come_from_zero_and_go_back(tmp_path, runtime: str):
    config = {
        "simulate": {"count": 1},
        "scaling": SCALING,
        "gateway": {"heartbeat_s": 0.5},
        "runtime": runtime,
    }
    with deployed(directory=tmp_path, config=json.dumps(config)) as deployment:
        for _ in range(2):
            await_that(lambda: all_of(deployment) == {}, "nothing was asked for")
            lines, _ = streamed(deployment)
            assert lines[0] == ": keep-alive"
            assert lines[-1] == "data: [DONE]"
        status = deployment.status()
        assert status["held"] == 0
