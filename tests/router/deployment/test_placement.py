"""Whether Ray has found a place for an instance, as Ray itself says."""

import pytest
import ray
from ray.util import placement_group, remove_placement_group

from dualmap.router.deployment.own_instances import has_place
from tests.conftest import WAIT_S

pytestmark = pytest.mark.ray

LOCAL = {"include_dashboard": False, "log_to_driver": False, "object_store_memory": 100 * 1024 * 1024}


@pytest.fixture
def one_cpu():
    ray.init(address="local", num_cpus=1, **LOCAL)
    try:
        yield
    finally:
        ray.shutdown()


def test_a_place_that_is_there_is_seen_at_every_look_and_one_that_is_not_at_none(one_cpu):
    first = placement_group([{"CPU": 1.0}], strategy="STRICT_PACK")
    assert first.wait(WAIT_S)
    second = placement_group([{"CPU": 1.0}], strategy="STRICT_PACK")
    assert all(has_place(first) for _ in range(50))
    assert not any(has_place(second) for _ in range(50))
    remove_placement_group(first)
    assert second.wait(WAIT_S)
    assert has_place(second)
