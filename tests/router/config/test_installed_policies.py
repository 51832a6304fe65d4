"""Policies that other packages provide are known by their names, and what is wrong with one is told in a line."""

import sys

import pytest

from dualmap.router.config.installed_policies import check_policy, register_installed_policies
from dualmap.router.config.load import ConfigFileError, load_config
from dualmap.scheduler import ConfigError, SchedulerConfig, config, policies, policy_names
from tests import own_policy


@pytest.fixture(autouse=True)
def nothing_registered(monkeypatch):
    monkeypatch.setattr(config, "_REGISTERED", {})
    monkeypatch.setattr(policies, "REGISTERED", {})
    monkeypatch.delitem(sys.modules, "soonest_policy", raising=False)


@pytest.fixture
def install(tmp_path, monkeypatch):
    def put(**entry_points: str) -> None:
        monkeypatch.syspath_prepend(own_policy.install(tmp_path / "site", **entry_points))

    return put


def load(policy: str) -> str:
    return load_config(None, {"simulate": {"count": 1}, "scheduler": {"policy": policy}}).scheduler.policy


def test_a_configuration_may_name_it_once_its_package_is_installed(install):
    with pytest.raises(ConfigFileError, match="policy must be one of dualmap, round_robin"):
        load("soonest")
    install()
    assert load("soonest") == "soonest"
    assert policy_names()[-1] == "soonest"


def test_the_policies_package_is_imported_only_where_it_is_used(install):
    install()
    assert load("dualmap") == "dualmap"
    assert "soonest_policy" not in sys.modules
    check_policy(SchedulerConfig(policy="soonest"))
    assert "soonest_policy" in sys.modules


def test_it_may_be_registered_again(install):
    install()
    register_installed_policies()
    register_installed_policies()
    assert policy_names().count("soonest") == 1


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("no_such_module:Soonest", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("soonest_policy:Slowest", "AttributeError: module 'soonest_policy' has no attribute 'Slowest'"),
        ("soonest_policy:broken", "RuntimeError: no such thing"),
        ("builtins:repr", "str lacks holds_requests, add, remove, place"),
    ],
)
def test_one_that_cannot_be_made_is_told_before_anything_starts(install, value: str, said: str):
    install(mine=value)
    assert load("round_robin") == "round_robin"
    with pytest.raises(ConfigFileError) as raised:
        load("mine")
    assert str(raised.value) == f"scheduler.policy: policy 'mine', {value}: {said}"


def test_names_of_dualmap_are_taken(install):
    install(round_robin="soonest_policy:Soonest")
    with pytest.raises(ConfigFileError, match="policy 'round_robin' is DualMap's own: yours needs another name"):
        load("dualmap")


def test_a_name_that_no_option_could_name_is_refused(install):
    install(**{"soon,est": "soonest_policy:Soonest"})
    with pytest.raises(ConfigFileError, match=r"the name of a policy has letters.* only, not 'soon,est'"):
        load("dualmap")


def test_an_unknown_policy_is_told_the_known_ones_and_the_nearest(install):
    install()
    with pytest.raises(ConfigFileError, match=r"policy must be one of dualmap, .*, soonest \(did you mean soonest\?\)"):
        load("sonest")


def test_a_configuration_from_a_process_that_knew_it_is_refused_where_it_is_unknown(install, monkeypatch):
    install()
    register_installed_policies()
    made = SchedulerConfig(policy="soonest")
    monkeypatch.setattr(policies, "REGISTERED", {})
    with pytest.raises(ConfigError, match="policy 'soonest' is not registered in this process"):
        check_policy(made)
