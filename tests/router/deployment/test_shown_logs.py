"""What a deployment shows on its standard output, for containers."""

import json
import os
import signal

import pytest

from tests.conftest import await_that
from tests.deployment import LOCAL_BEFORE_RAY, ask, deployed
from tests.instances.conftest import starting_sims

SHOWN = ("--log-to", "stdout", "--log-format", "json", "--log-requests")
ENDS = ("gateway_restarted", "gateway_lost")  # where the next one takes more than 3 s to start


@pytest.mark.parametrize("runtime", LOCAL_BEFORE_RAY)
def test_each_line_is_an_object_of_a_request_or_an_event_also_after_a_gateways_death(tmp_path, runtime):
    config = f"runtime: {runtime}\ngateway: {{count: 2}}\n"
    with starting_sims() as start:
        flags = ("--instance", f"http://127.0.0.1:{start().port}", *SHOWN)
        with deployed(*flags, directory=tmp_path, config=config) as deployment:
            await_that(lambda: deployment.ready_count() == 1, "it serves")
            await_that(lambda: knows_both(deployment.status()["gateways"]), "Fleet knows what both of them know")
            before = set(deployment.actor_pids("GatewayActor"))
            os.kill(min(before), signal.SIGKILL)
            await_that(lambda: len(set(deployment.actor_pids("GatewayActor")) - {min(before)}) == 2, "another is there")
            await_that(lambda: any(kind in line for line in deployment.output for kind in ENDS), "that is shown")
            asked = {ask(deployment, f"Question {number}", max_tokens=2) for number in range(8)}
            assert deployment.stop(signal.SIGINT) == 0, deployment.output
    shown = [json.loads(line) for line in deployment.output]
    assert {"up", "fleet"} <= {line["process"] for line in shown}
    requests = [line for line in shown if line["process"] in asked and "outcome" in line]
    assert len(requests) == 8
    events = [(line["event"], line["at"]) for line in shown if "event" in line]
    assert len(set(events)) == len(events), "each is shown once"
    assert list((tmp_path / "runs" / "logs" / "latest").iterdir()) == []


def knows_both(gateways: list[dict]) -> bool:
    """One that ends before it has said what it knows was hardly there: nothing is told of it."""
    return [gateway["epoch"] > 0 for gateway in gateways] == [True, True]
