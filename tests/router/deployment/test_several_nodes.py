"""Gateways on every node of a Ray cluster: two nodes on this machine, two gateways on each."""

import json
import urllib.request

import pytest

from tests.conftest import WAIT_S, await_that
from tests.deployment import ask, deployed
from tests.router.deployment.first_node import NODE, first_node

pytestmark = [pytest.mark.ray, pytest.mark.slow]

CONFIG = "ray_address: '{address}'\nsimulate: {{count: 2}}\ngateway: {{count: 2, on_every_node: true}}\n"


@pytest.fixture
def ray_address():
    cluster = await_that(first_node, "a node of Ray has started")
    try:
        cluster.add_node(num_cpus=1, object_store_memory=NODE["object_store_memory"])
        yield cluster.address
    finally:
        cluster.shutdown()


@pytest.mark.release
def test_each_node_has_gateways_that_know_of_all_others(ray_address, tmp_path):
    config = CONFIG.format(address=ray_address)
    # Nodes have a machine each; here they share one, so that the ports of the admin endpoints must be free ones.
    with deployed("--admin-port", "0", directory=tmp_path, config=config) as deployment:
        (line,) = (line for line in deployment.output if line.startswith("metrics"))
        url = line.split()[1].replace("/metrics", "/admin/status")

        def gateways() -> set[str]:
            with urllib.request.urlopen(url, timeout=WAIT_S) as answer:
                return {gateway["gateway_id"] for gateway in json.load(answer)["gateways"]}

        all_four = {f"gateway-{number}" for number in range(4)}
        await_that(lambda: gateways() == all_four, "each has told Fleet of itself")
        assert {ask(deployment, f"Question {i}", max_tokens=1) for i in range(80)} == all_four
