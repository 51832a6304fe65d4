"""How computed prompts get from one instance to another, as a deployment file or flags say it."""

import argparse

import pytest

from dualmap.router.cli.deployment_flags import add_deployment_flags, overrides
from dualmap.router.config.instance_specs import external_endpoint
from dualmap.router.config.load import ConfigFileError, load_config
from dualmap.router.legs.mooncake import Mooncake
from dualmap.router.legs.nixl import Nixl

PREFILL = "http://10.0.0.1:8000"
MOON = {"instances": ["http://d:1"], "kv_transfer": {"connector": "mooncake"}}


def test_it_is_nixl_unless_the_pool_says_otherwise():
    config = load_config(None, {"pools": {"a": {"simulate": {"count": 1}}, "b": MOON}})
    assert [type(pool.kv_transfer.made()) for pool in config.all_pools().values()] == [Nixl, Mooncake]


def test_a_flag_says_it_too():
    parser = argparse.ArgumentParser()
    add_deployment_flags(parser)
    given = overrides(parser.parse_args(["--kv-connector", "mooncake", "--prefill", PREFILL, "--decode", "http://d:1"]))
    assert isinstance(load_config(None, given).kv_transfer.made(), Mooncake)


def test_an_instance_may_have_a_bootstrap_server_at_a_port_of_its_own():
    instances = [{"url": PREFILL, "role": "prefill", "bootstrap_port": 8999}, {"url": PREFILL + "/b"}]
    config = load_config(None, {"instances": instances, "kv_transfer": {"connector": "mooncake"}})
    assert [external_endpoint(config, instance).bootstrap_port for instance in config.instances] == [8999, 0]


@pytest.mark.parametrize("kind", ["simulate", "vllm"])
def test_what_is_started_here_hands_prompts_over_by_nixl(kind):
    started = {"prefill": 1, "decode": 1} | ({"model": "m"} if kind == "vllm" else {})
    load_config(None, {kind: started})
    with pytest.raises(ConfigFileError, match="hands prompts over by nixl"):
        load_config(None, {kind: started, "kv_transfer": {"connector": "mooncake"}})
