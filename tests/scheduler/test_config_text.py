"""What --set NAME=VALUE may say."""

import pytest

from dualmap.scheduler.config_text import read_settings
from dualmap.scheduler.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("rebalancing=off", {"rebalancing": False}),
        ("rebalancing=True", {"rebalancing": True}),
        ("rebalancing=0", {"rebalancing": False}),
        ("max_moves=4", {"max_moves": 4}),
        ("patience_slos=3", {"patience_slos": 3.0}),
        ("queue_timeout_s=inf", {"queue_timeout_s": float("inf")}),
        ("cold_start_timeout_s=5", {"cold_start_timeout_s": 5.0}),
        ("policy=llm_d", {"policy": "llm_d"}),
        ("shared_media=cpu,remote", {"shared_media": ("cpu", "remote")}),
        ("shared_media=", {"shared_media": ()}),
    ],
)
def test_a_value_is_of_the_type_of_its_field(text, found):
    read = read_settings([text])
    assert read == found
    assert [type(value) for value in read.values()] == [type(value) for value in found.values()]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rebalancing", "NAME=VALUE, not 'rebalancing'; names are policy, "),
        ("rebalance=on", "names are"),
        ("rebalancing=maybe", "rebalancing takes true or false, not 'maybe'"),
        ("max_moves=few", "max_moves takes a value of type int, not 'few'"),
        ("max_moves=1.5", "a value of type int"),
        ("patience_slos=", "a value of type float"),
    ],
)
def test_what_cannot_be_set_is_said_with_what_could(text, message):
    with pytest.raises(ConfigError, match=message):
        read_settings([text])


def test_what_is_given_by_other_means_cannot_be_set():
    with pytest.raises(ConfigError, match="names are ttft_slo_s"):
        read_settings(["policy=llm_d"], fixed=("policy",))


def test_the_last_of_two_values_counts():
    assert read_settings(["max_moves=1", "max_moves=2"]) == {"max_moves": 2}
