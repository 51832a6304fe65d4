"""A configuration value that breaks its rule is named with its field and its rule."""

import math
from dataclasses import fields

import pytest

from dualmap.scheduler import InstanceCapacity, SchedulerConfig
from dualmap.scheduler.answer_lengths import AnswerLengths
from dualmap.scheduler.config import POLICY_NAMES
from dualmap.scheduler.errors import ConfigError
from dualmap.scheduler.holders import Holders
from dualmap.scheduler.load_order import LoadOrder
from dualmap.scheduler.offers import Offers
from dualmap.scheduler.policies import configured_for, make_policy
from dualmap.scheduler.sessions import Sessions

POSITIVE = ["ttft_slo_s", "block_tokens", "virtual_nodes", "key_blocks", "max_key_blocks", "max_moves"]
POSITIVE += ["max_moves_per_request", "release_window_s", "max_waiting", "max_in_flight", "queue_timeout_s"]
POSITIVE += ["max_attempts", "patience_slos", "kv_lease_s"]
NOT_NEGATIVE = ["min_move_gain_s", "recompute_price_idle", "recompute_price_busy", "suspect_s", "length_handicap"]
NOT_NEGATIVE += ["decode_s_per_request", "slow_start_s", "adapter_load_s", "tpot_slo_s", "cold_start_timeout_s"]
NOT_NEGATIVE += ["min_prefill_leg_tokens"]
FRACTIONS = ["hot_slo_fraction", "escape_slo_fraction"]
SWITCHES = ["dual_mapping", "adaptive_key", "slo_aware", "gateway_queue", "rebalancing"]
SWITCHES += ["find_holders", "escape", "deadline_order", "taking"]

BAD = [
    *((name, value, "greater than 0") for name in POSITIVE for value in (0, -1, math.nan)),
    *((name, value, "at least 0") for name in NOT_NEGATIVE for value in (-0.001, math.nan)),
    *((name, value, "greater than 0 and at most 1") for name in FRACTIONS for value in (0, -0.5, 1.001, math.nan)),
    ("shared_media", ("CPU",), "in lower case"),
    ("shared_media", ("gpu",), "names tiers"),
    ("policy", "fastest", "one of dualmap, round_robin, least_loaded"),
    ("policy", "", "one of dualmap, round_robin, least_loaded"),
]


@pytest.mark.parametrize(("name", "value", "rule"), BAD)
def test_a_bad_value_is_named_with_its_field_and_its_rule(name: str, value: object, rule: str):
    with pytest.raises(ConfigError) as raised:
        SchedulerConfig(**{name: value})
    message = str(raised.value)
    assert message.startswith(name)
    assert rule in message
    assert message.endswith(repr(value[0] if isinstance(value, tuple) else value))


def test_deepening_cannot_stop_before_the_depth_it_starts_from():
    with pytest.raises(ConfigError, match=r"max_key_blocks must be at least key_blocks=5, not 4"):
        SchedulerConfig(key_blocks=5, max_key_blocks=4)


@pytest.mark.parametrize("name", ["prefill_tokens_per_s", "kv_tokens", "max_running", "weight"])
@pytest.mark.parametrize("value", [0, -1, math.nan])
def test_an_instance_without_capacity_is_refused(name: str, value: float):
    with pytest.raises(ConfigError, match=f"{name} must be greater than 0, not {value}"):
        InstanceCapacity(**{name: value})


@pytest.mark.parametrize("name", ["cache_tokens", "attention_tokens"])
@pytest.mark.parametrize("value", [-1, math.nan])
def test_what_an_instance_may_lack_is_not_negative(name: str, value: float):
    assert InstanceCapacity(**{name: 0})
    with pytest.raises(ConfigError, match=f"{name} must be at least 0, not {value}"):
        InstanceCapacity(**{name: value})


def test_a_bad_configuration_is_a_value_error_to_those_who_do_not_know_the_core():
    assert issubclass(ConfigError, ValueError)


def test_every_field_has_a_default_and_a_rule_or_is_a_switch():
    SchedulerConfig()
    assert {f.name for f in fields(SchedulerConfig)} == {
        "policy",
        "shared_media",
        *POSITIVE,
        *NOT_NEGATIVE,
        *FRACTIONS,
        *SWITCHES,
    }


@pytest.mark.parametrize("name", POLICY_NAMES)
def test_every_named_policy_can_be_made(name: str):
    config = configured_for(SchedulerConfig(policy=name))
    assert make_policy(config, Holders(), LoadOrder(), Offers(), AnswerLengths(), Sessions())
