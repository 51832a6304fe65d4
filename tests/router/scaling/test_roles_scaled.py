"""Servers of two roles that `dualmap up` starts: each role has its own number, which changes while they serve, and one
server changes its role where the load does."""

import pytest

from tests.conftest import await_that
from tests.deployment import Deployment, deployed, under_load
from tests.router.scaling.test_scaling import dualmap

pytestmark = [pytest.mark.ray, pytest.mark.slow]

CONFIG = """
simulate: {prefill: 1, decode: 1, capacity: {prefill_tokens_per_s: 50000}}
scheduler: {min_prefill_leg_tokens: 512}
"""
LONG = " and nobody has asked that before." * 100  # more tokens than a whole request has to have for two legs


@pytest.fixture
def deployment(tmp_path):
    with deployed(directory=tmp_path, config=CONFIG) as deployment:
        yield deployment


def pids(deployment: Deployment) -> dict[str, int]:
    return {i: member["pid"] for i, member in deployment.members().items() if member["state"] == "ready"}


def roles(deployment: Deployment) -> list[str]:
    return sorted(member["role"] for member in deployment.members().values())


def test_each_role_is_scaled_and_restarted_by_itself_and_no_request_is_lost(deployment):
    assert sorted(deployment.members()) == ["sim-decode-0", "sim-prefill-0"]
    said, before = [], pids(deployment)

    def strike() -> None:
        for command in (("scale", "prefill=2", "decode=1"), ("restart", "--rolling")):
            said.append(dualmap(deployment, *command))
            assert said[-1].returncode == 0, said
        after = pids(deployment)
        assert all(after[i] != before[i] for i in before), "restarted, the only one that decodes as well"
        said.append(dualmap(deployment, "scale", "prefill=1"))
        await_that(lambda: roles(deployment) == ["decode", "prefill"], "one of each role is left")

    assert under_load(deployment, strike, LONG) == []
    assert said[0].stdout.endswith("prefill: 2 ready; decode: 1 ready\ndone\n")
    assert 'dualmap_prefill_handoffs_total{told="nothing"} 0.0' in deployment.metrics()
    refused = dualmap(deployment, "scale", "2")
    assert (refused.returncode, "each role has its own number here" in refused.stderr) == (1, True), refused
    status = dualmap(deployment, "status").stdout
    assert "scaling  prefill  1 to 1 instances, as told by hand" in status
    assert "scaling  decode  1 to 1 instances, as told by hand" in status


# Four answers at once take all places of one that decodes, however fast it is.
CHANGING = """
simulate: {prefill: 2, decode: 1, capacity: {prefill_tokens_per_s: 50000, max_running: 4}}
scheduler: {min_prefill_leg_tokens: 512}
scaling: {change_roles: true, prefill: {}, decode: {}, up_window_s: 2, down_window_s: 4, cool_down_s: 1}
"""
LONG_ANSWERS = {"max_tokens": 100, "extra_body": {"ignore_eos": True}}


def test_a_load_that_changes_makes_a_server_change_its_role_and_no_request_is_lost(tmp_path):
    with deployed(directory=tmp_path, config=CHANGING) as deployment:
        assert under_load(deployment, lambda: None, LONG, clients=2) == []
        assert sorted(pids(deployment)) == ["sim-decode-0", "sim-prefill-0", "sim-prefill-1"]
        lost_prompts: list[str] = []

        def await_change() -> None:
            await_that(
                lambda: len(pids(deployment)) == 3 and "sim-decode-1" in pids(deployment), "a second one decodes"
            )

        def answer() -> None:
            lost_prompts.extend(under_load(deployment, await_change, LONG, clients=1))

        assert (under_load(deployment, answer, clients=8, **LONG_ANSWERS), lost_prompts) == ([], [])
        assert "one goes to decode" in (deployment.directory / "runs/logs/latest/autoscaler.log").read_text()
