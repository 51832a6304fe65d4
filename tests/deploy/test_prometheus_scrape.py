"""A real Prometheus beside a real deployment, with the configuration and the rules that users are given."""

import itertools
import json
import shutil
import subprocess
import urllib.request
from pathlib import Path

import pytest
import yaml

from tests.conftest import WAIT_S, await_that
from tests.deploy.prometheus_queries import query
from tests.deployment import ask, deployed, free_port

DASHBOARDS = Path(__file__).parents[2] / "deploy" / "grafana"
FOLDER = Path(__file__).parents[2] / "deploy" / "prometheus"
PROMETHEUS = shutil.which("prometheus")

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.skipif(PROMETHEUS is None, reason="prometheus: Debian's package"),
]

CONFIG = """\
simulate: {count: 2}
gateway: {count: 2, prometheus_targets: prometheus/targets.json}
scheduler: {tpot_slo_s: 0.5}
"""


@pytest.fixture(scope="module")
def deployment(tmp_path_factory):
    with deployed(directory=tmp_path_factory.mktemp("scraped"), config=CONFIG) as deployment:
        yield deployment


@pytest.fixture(scope="module")
def prometheus(deployment):
    """Its URL. It scrapes each second."""
    folder = deployment.directory / "prometheus"
    config = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    shutil.copy(FOLDER / "rules.yml", folder)
    port = free_port()
    command = [PROMETHEUS, f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
    log = (folder / "log").open("w")
    process = subprocess.Popen([*command, f"--web.listen-address=127.0.0.1:{port}"], stdout=log, stderr=log)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(timeout=WAIT_S)
        log.close()


def test_both_gateways_are_found_and_what_they_serve_is_read(deployment, prometheus):
    await_that(lambda: len(query(prometheus, 'up{job="dualmap"} == 1')) == 2, "both gateways are scraped")
    for i in range(10):
        ask(deployment, f"Question {i}", max_tokens=2, stream=False)

    def total() -> float:
        return sum(float(s["value"][1]) for s in query(prometheus, 'sum(dualmap_requests_total{outcome="ok"})'))

    await_that(lambda: total() == 10, "all requests are counted, whichever gateway had them")
    instances = query(prometheus, "max by (instance) (dualmap_instance_prefill_seconds_per_token)")
    assert {sample["metric"]["instance"] for sample in instances} == {"sim-0", "sim-1"}
    gateways = {sample["metric"]["gateway"] for sample in query(prometheus, "dualmap_gateways == 2")}
    assert gateways == {f"127.0.0.1:{deployment.admin_port + i}" for i in range(2)}


def chosen(expr: str) -> str:
    """As Grafana asks with `All` for each variable."""
    for variable in ("namespace", "deployment", "pool", "model"):
        expr = expr.replace(f'"${variable}"', '".*"')
    return expr.replace("$__rate_interval", "1m")


def queries() -> list[tuple[str, str]]:
    """Each panel of each dashboard, and what it asks."""
    boards = [json.loads(path.read_text()) for path in sorted(DASHBOARDS.glob("*.json"))]
    return [
        (f"{board['title']} / {panel['title']}", target["expr"])
        for board in boards
        for panel in board["panels"]
        for target in panel["targets"]
    ]


def test_every_query_of_the_dashboards_has_an_answer(deployment, prometheus):
    questions = itertools.count()
    unanswered = queries()
    assert len(unanswered) > 40

    def all_answered() -> bool:
        """Rates are those of the last minute: requests go on until the last panel has its answer."""
        ask(deployment, f"Another question {next(questions)}", max_tokens=2)
        with deployment.client() as client:
            messages = [{"role": "user", "content": f"Say {next(questions)}"}]
            for _ in client.chat.completions.create(model="sim", messages=messages, max_tokens=3, stream=True):
                pass
        unanswered[:] = [(title, expr) for title, expr in unanswered if not query(prometheus, chosen(expr))]
        return not unanswered

    await_that(all_answered, "every panel shows something")


def test_recorded_series_come_about_and_no_alert_fires(prometheus):
    await_that(lambda: query(prometheus, "dualmap:instance_backlog_seconds"), "rules are evaluated")
    with urllib.request.urlopen(f"{prometheus}/api/v1/rules", timeout=WAIT_S) as answer:
        groups = json.load(answer)["data"]["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert {rule["health"] for rule in rules} <= {"ok", "unknown"}
    assert not query(prometheus, 'ALERTS{alertstate="firing"}')


def test_a_stopped_deployment_leaves_no_target(deployment):
    targets = deployment.directory / "prometheus" / "targets.json"
    assert len(json.loads(targets.read_text())[0]["targets"]) == 2
    deployment.clean_up()
    assert json.loads(targets.read_text())[0]["targets"] == []
