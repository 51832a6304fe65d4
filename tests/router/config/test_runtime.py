"""Which deployments need Ray."""

import pytest

from dualmap.router.config.load import load_config
from dualmap.router.config.runtime import uses_ray

RUNNING = {"instances": ["http://10.0.0.1:8000"]}
PODS = {"discovery": {"kubernetes": {"label_selector": "app=vllm"}}}


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        (RUNNING, False),
        (PODS, False),
        (RUNNING | {"gateway": {"count": 4}}, False),
        (RUNNING | {"gateway": {"picker": {}}}, False),
        (RUNNING | {"runtime": "local"}, False),
        (RUNNING | {"runtime": "ray"}, True),
        (RUNNING | {"ray_address": "auto"}, True),
        (RUNNING | {"gateway": {"on_every_node": True}}, True),
        (RUNNING | {"simulate": {"count": 1}}, True),
        ({"vllm": {"model": "m"}}, True),
        (RUNNING | {"ray_address": "ray://head:10001"}, False),
        (RUNNING | {"ray_address": "head:6379", "gateway": {"count": 0}}, True),
        ({"vllm": {"model": "m"}, "ray_address": "ray://head:10001"}, False),
        ({"pools": {"a": RUNNING, "b": {"simulate": {"count": 1}}}}, True),
    ],
)
def test_ray_runs_where_it_starts_servers_or_joins_machines(values, wanted):
    assert uses_ray(load_config(None, values)) is wanted
