"""A configuration that changes in a run: what is taken over, what is refused, and a deployment under load meanwhile."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from dualmap.router.config import reload as config_reload
from dualmap.router.config.load import load_config
from dualmap.router.config.reload import ConfigFile, fixed_changes
from tests.conftest import ProcessFamily, await_that
from tests.deployment import Deployment, ask, deployed, free_port, under_load
from tests.router.fake_kubernetes import FakeKubernetes

ONE_REFUSED = 'dualmap_config_reloads_total{result="refused"} 1.0'
NEW_OBJECTIVE = 'dualmap_objective_seconds{pool=""} 2.0'
A, B, C = (f"http://10.0.0.{number}:8000" for number in (1, 2, 3))
BASE = {
    "instances": [A, B],
    "gateway": {"port": 8080},
    "pools": {
        "code": {"instances": [C]},
        "sims": {"simulate": {"count": 2, "model": "sims"}, "scaling": {"max_replicas": 4}},
    },
}


def changed(**sections: object) -> dict:
    return BASE | sections


@pytest.mark.parametrize(
    ("values", "refused"),
    [
        (BASE, []),
        (changed(instances=[A, "http://10.0.0.9:8000"]), []),
        (changed(pools=BASE["pools"] | {"code": {"instances": [C, "http://10.0.0.9:8000"]}}), []),
        (
            changed(
                pools=BASE["pools"]
                | {"sims": {"simulate": {"count": 2, "model": "sims"}, "scaling": {"max_replicas": 9}}}
            ),
            [],
        ),
        (changed(gateway={"port": 8090}), ["gateway.port cannot change while it runs: 8080 -> 8090"]),
        (changed(scheduler={"ttft_slo_s": 2.0, "tpot_slo_s": 0.05, "max_waiting": 7}), []),
        (changed(limits={"max_body_bytes": 1000}), []),
        (changed(model_aliases={"gpt-4o": "qwen", "gpt-3.5": "qwen"}), []),
        (
            changed(
                pools=BASE["pools"]
                | {"sims": {"simulate": {"count": 3, "model": "sims"}, "scaling": {"max_replicas": 4}}}
            ),
            ["pools.sims.simulate.count cannot change while it runs: 2 -> 3"],
        ),
        (changed(simulate={"count": 1}), ["simulate.count cannot change while it runs: 0 -> 1"]),
        (
            changed(gateway={"port": 8090}, scheduler={"ttft_slo_s": 2.0, "virtual_nodes": 64}),
            [
                "gateway.port cannot change while it runs: 8080 -> 8090",
                "scheduler.virtual_nodes cannot change while it runs: 128 -> 64",
            ],
        ),
        (
            changed(instances=[{"url": A, "capacity": {"max_running": 4}}, B]),
            ["10.0.0.1:8000 is known already: remove it, and add it with other settings later"],
        ),
        (
            changed(instances=[A], pools=BASE["pools"] | {"code": {"instances": [B, C]}}),
            ["10.0.0.2:8000 is known already: remove it, and add it with other settings later"],
        ),
        (changed(instances=[{"url": A, "role": "decode", "revision": "a"}, B]), []),
        (changed(instances=[A], discovery={"kubernetes": {"label_selector": "app=vllm"}}), []),
        (changed(instances=[]), ["pool (the first) cannot come or go while it runs"]),
    ],
)
def test_what_cannot_change_is_named(values, refused):
    assert fixed_changes(load_config(None, BASE), load_config(None, values)) == refused


@pytest.mark.parametrize(
    ("old", "new", "refused"),
    [
        ({"simulate": {"count": 2}}, {"simulate": {"count": 3}}, []),
        ({"vllm": {"model": "m"}}, {"vllm": {"model": "m", "replicas": 3}}, []),
        ({"simulate": {"count": 2}, "instances": [A]}, {"simulate": {"count": 3}, "instances": [A]}, []),
        ({"simulate": {"prefill": 1, "decode": 2}}, {"simulate": {"prefill": 2, "decode": 1}}, []),
        ({"vllm": {"model": "m", "prefill": 1, "decode": 2}}, {"vllm": {"model": "m", "prefill": 3, "decode": 2}}, []),
        (
            {"simulate": {"prefill": 1, "decode": 2}, "scaling": {"prefill": {}, "decode": {}}},
            {"simulate": {"prefill": 1, "decode": 2}, "scaling": {"prefill": {"max_replicas": 3}, "decode": {}}},
            [],
        ),
        (
            {"simulate": {"prefill": 1, "decode": 2}, "scaling": {"prefill": {}, "decode": {}}},
            {"simulate": {"prefill": 1, "decode": 3}, "scaling": {"prefill": {}, "decode": {}, "change_roles": True}},
            ["simulate.decode cannot change while it runs: 2 -> 3"],
        ),
        (
            {"vllm": {"model": "m"}, "simulate": {"count": 2}},
            {"vllm": {"model": "m"}, "simulate": {"count": 3}},
            ["simulate.count cannot change while it runs: 2 -> 3"],
        ),
        (
            {"simulate": {"count": 2}, "instances": [A]},
            {"instances": [A]},
            ["simulate.count cannot change while it runs: 2 -> 0"],
        ),
    ],
)
def test_how_many_are_started_here_can_change_where_a_person_could_scale(old, new, refused):
    assert fixed_changes(load_config(None, old), load_config(None, new)) == refused


def test_a_pool_cannot_come_or_go():
    without = changed(pools={"code": BASE["pools"]["code"]})
    lines = fixed_changes(load_config(None, BASE), load_config(None, without))
    assert any(line.startswith("pools.sims.simulate.count cannot change while it runs: 2 -> not set") for line in lines)


def test_the_limits_of_a_picker_stay():
    picker = {"gateway": {"picker": {}}, "instances": [A]}
    lines = fixed_changes(load_config(None, picker), load_config(None, picker | {"limits": {"max_body_bytes": 1000}}))
    assert lines == ["the limits of a picker cannot change while it runs"]


def test_discovery_that_is_not_installed_is_refused(monkeypatch):
    monkeypatch.setattr(config_reload, "find_spec", lambda name: None)
    values = changed(discovery={"kubernetes": {"label_selector": "app=vllm"}})
    lines = fixed_changes(load_config(None, BASE), load_config(None, values))
    assert lines == ["discovery needs more packages: pip install 'dualmap[kubernetes]'"]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "dualmap.yaml"
    path.write_text(yaml.safe_dump(BASE))
    said: list[str] = []
    given = {"scheduler": {"ttft_slo_s": 3.0}}
    return (
        path,
        ConfigFile(path, given, load_config(path, given), said.append, lambda event: said.append(event.sentence())),
        said,
    )


def test_a_changed_file_is_taken_over_once_with_what_flags_said(file):
    path, config_file, said = file
    assert config_file.news() is None
    path.write_text(yaml.safe_dump(changed(instances=[A])))
    news = config_file.news()
    assert news is config_file.config
    assert [instance.id for instance in news.instances] == ["10.0.0.1:8000"]
    assert news.scheduler.ttft_slo_s == 3.0
    assert config_file.news() is None
    assert said == [f"the configuration is taken over from {path}: instances: -10.0.0.2:8000"]
    assert (config_file.reloads.applied, config_file.reloads.refused) == (1, 0)


def test_another_role_is_told(file):
    path, config_file, said = file
    path.write_text(yaml.safe_dump(changed(instances=[{"url": A, "role": "decode", "revision": "a1"}, B])))
    assert config_file.news() is not None
    told = "instances: 10.0.0.1:8000 role: both -> decode 10.0.0.1:8000 revision: none -> a1"
    assert said == [f"the configuration is taken over from {path}: {told}"]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("instances: [", "expected the node content"),
        ("instances: [ftp://x]", "instances.0"),
        ("", "no instances"),
        ("instances: [2026-13-45]", "month must be in 1..12"),
        ("instances: [http://localhost:1, http://127.0.0.1:1]", "instances are named twice: 127.0.0.1:1"),
        ("instances: []\ninstances: []", "line 2: instances: stands twice, for the first time on line 1"),
        ("instances: ['http://${UNSET_HOST}:1']", "the environment variable UNSET_HOST is not set"),
        (yaml.safe_dump(changed(instances=[A], gateway={"port": 1})), "gateway.port cannot change"),
    ],
)
def test_a_file_that_cannot_be_used_changes_nothing(file, text, complaint):
    path, config_file, said = file
    before = config_file.config
    path.write_text(text)
    assert config_file.news() is None
    assert config_file.config is before
    assert (config_file.reloads.applied, config_file.reloads.refused) == (0, 1)
    assert complaint in "\n".join(said)


def test_a_file_that_is_away_for_a_moment_changes_nothing(file):
    path, config_file, said = file
    path.rename(path.with_suffix(".old"))
    assert config_file.news() is None
    path.with_suffix(".old").rename(path)
    assert config_file.news() is None
    assert not said
    config_file.sign.set()
    assert config_file.news() is None
    assert said == ["the configuration has not changed"]


class Elsewhere:
    """Simulated servers that the deployment did not start: named in its file, and pods that it finds."""

    def __init__(self, directory: Path) -> None:
        self.family = ProcessFamily()
        self.port = free_port()
        self.kubernetes = FakeKubernetes()
        kubeconfig = self.kubernetes.write_kubeconfig(directory / "kubeconfig")
        self.pods = {"label_selector": "app=vllm", "port": self.port, "kubeconfig": str(kubeconfig)}
        self.path = directory / "dualmap.yaml"

    def start(self, host: str) -> str:
        """Its URL."""
        command = [sys.executable, "-m", "dualmap", "sim-instance", "--host", host, "--port", str(self.port)]
        subprocess.Popen(command, env=self.family.environment, start_new_session=True)
        return f"http://{host}:{self.port}"

    def write(self, *urls: str, **more: object) -> None:
        """At once: a file that is half written would be refused, and counted."""
        fresh = self.path.with_suffix(".new")
        fresh.write_text(yaml.safe_dump({"instances": urls, "discovery": {"kubernetes": self.pods}, **more}))
        fresh.rename(self.path)


def _shows(deployment: Deployment, line: str) -> bool:
    try:
        return line in deployment.metrics()
    except OSError:
        return False


@pytest.mark.slow
def test_instances_come_and_go_under_load_without_a_failed_request(tmp_path):
    there = Elsewhere(tmp_path)
    first, second, pod = (there.start(f"127.0.0.{number}") for number in (2, 3, 4))
    ids = [url.removeprefix("http://") for url in (first, second, pod)]
    there.write(first)
    deployment = Deployment(str(there.path), directory=tmp_path)
    try:
        deployment.await_started()
        await_that(lambda: deployment.ready_count() == 1, "the one in the file is used")

        def change() -> None:
            there.write(first, second)
            there.kubernetes.put("a", "127.0.0.4")
            await_that(lambda: deployment.ready_count() == 3, "the file's second and the pod are used")
            there.write(second)
            await_that(lambda: ids[0] not in deployment.members(), "the one that is named no more has left")
            there.kubernetes.put("b", "127.0.0.3", conditions={"Ready": True})  # the file's second, as a pod
            for ready in (True, False):
                there.kubernetes.put("a", "127.0.0.4", conditions={"Ready": ready})
            await_that(lambda: ids[2] not in deployment.members(), "the pod that is not ready any more has left")
            there.kubernetes.put("a", "127.0.0.4", conditions={"Ready": True})
            await_that(lambda: deployment.ready_count() == 2, "it is ready, and used, again")
            there.kubernetes.put("a", "127.0.0.4", leaving=True)
            await_that(lambda: ids[2] not in deployment.members(), "the pod that ends has left")

        assert under_load(deployment, change) == []
        there.kubernetes.delete("a")
        there.write(second, scheduler={"virtual_nodes": 64})
        await_that(lambda: "scheduler.virtual_nodes cannot change" in "".join(deployment.output), "it is refused")
        await_that(lambda: ONE_REFUSED in deployment.metrics(), "it is counted")
        there.write(second, first, scheduler={"ttft_slo_s": 2.0})
        await_that(lambda: NEW_OBJECTIVE in deployment.metrics(), "the objective is another one")
        os.kill(deployment.status()["pid"], signal.SIGKILL)
        await_that(lambda: _shows(deployment, NEW_OBJECTIVE), "it is also that of the gateway's successor")
        await_that(lambda: set(deployment.members()) == set(ids[:2]), "the next version is taken over")
        deployment.process.send_signal(signal.SIGHUP)
        await_that(lambda: "the configuration has not changed" in "".join(deployment.output), "a sign is heard")
        ask(deployment, "Still there?", max_tokens=1)
    finally:
        deployment.clean_up()
        there.kubernetes.close()
        there.family.kill()


@pytest.mark.ray
@pytest.mark.slow
def test_as_many_instances_run_as_the_file_says_by_now(tmp_path):
    path = tmp_path / "dualmap.yaml"
    with deployed(directory=tmp_path, config="simulate: {count: 1}") as deployment:
        path.write_text("simulate: {count: 2}")
        await_that(lambda: deployment.ready_count() == 2, "the second is there")
        path.write_text("simulate: {count: 1}")
        await_that(lambda: len(deployment.members()) == 1, "one of them has left")
        ask(deployment, "Still there?", max_tokens=1)
