"""Each alert of deploy/prometheus, provoked at a real gateway that a real Prometheus scrapes as the chart's PodMonitor
has it, by the chart's rules, with their spans of time shortened."""

import asyncio
import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from dualmap.router.observe.metrics import Told
from dualmap.router.observe.reloads import Reloads
from dualmap.scheduler.fleet.fleet_event import EventKind, FleetEvent
from dualmap.scheduler.fleet.member import MemberState
from dualmap.scheduler.fleet.messages import GatewayState, PoolPlan
from dualmap.scheduler.fleet.signals import InstanceSignals, LoadSample, SignalNews
from tests.conftest import POLL_S, WAIT_S
from tests.deploy.chart_variants import one
from tests.deploy.helm_chart import can_render, manifests
from tests.deploy.prometheus_operator import scrape_config, target
from tests.deploy.prometheus_queries import query
from tests.deployment import free_port
from tests.router.conftest import STREAM, Client, Conversation, Fleet, post

PROMETHEUS = shutil.which("prometheus")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(PROMETHEUS is None or not can_render(), reason="needs prometheus, Go and sprig"),
]

FASTER = 120  # a span of 5 minutes becomes 2.5 s
UNIT_MS = {"s": 1_000, "m": 60_000, "h": 3_600_000}
GATEWAY = GatewayState("gateway-0", 1, "", age_s=0.1)
POOLS = {"": "well", "flaky": "flaky", "held": "held", "gone": "gone"}  # and the model of each
NAMESPACE = {"namespace": "default"}
OURS = {**NAMESPACE, "deployment": "dualmap"}  # in the alerts of the release
EXPECTED: dict[str, dict[str, str]] = {
    "DualMapObjectiveMissedFast": {**OURS},
    "DualMapObjectiveMissedSlowly": {**OURS},
    "DualMapTokensSlow": {**OURS},
    "DualMapNoReadyInstance": {**OURS, "pool": "gone"},
    "DualMapInstanceAway": {**OURS, "pool": "gone", "instance": "i3"},
    "DualMapInstanceLost": {**OURS},
    "DualMapAnswersFailed": {**OURS},
    "DualMapReloadRefused": {**OURS},
    "DualMapGatewayDown": {
        **OURS,
        "job": "dualmap",
        "pod": "dualmap-2",
        "gateway": "dualmap-2",
        "container": "gateway",
        "endpoint": "admin",
    },
    "DualMapNoGateway": {**NAMESPACE, "deployment": "other"},
    "DualMapShedding": {**OURS},
    "DualMapHotInstance": {**OURS, "pool": "held", "instance": "i2"},
    "DualMapQueueGrowing": {**OURS, "pool": "held"},
    "DualMapColdCache": {**OURS},
    "DualMapSignalsStale": {**OURS, "instance": "i2"},
    "DualMapMovesFailing": {**OURS},
    "DualMapPromptsComputedTwice": {**OURS},
    "DualMapFleetAway": {**OURS, "gateway": "dualmap-1"},
    "DualMapEstimateOff": {**OURS},
}


def shortened(rules: dict[str, Any]) -> str:
    def shorter(span: re.Match[str]) -> str:
        return f"{span[1]}{int(span[2]) * UNIT_MS[span[3]] // FASTER}ms{span[4]}"

    text = yaml.safe_dump(rules)
    text = re.sub(r"(\[)(\d+)([smh])(\])", shorter, text)
    return re.sub(r"(\bfor: )(\d+)([smh])($)", shorter, text, flags=re.MULTILINE)


VALUES = {
    "podMonitor": {"enabled": True},
    "prometheusRule": {"enabled": True},
    "vllm": {"enabled": True, "autoscaling": {"enabled": True}},
}


class Scraping:
    """A Prometheus that is set up as the operator would by the chart, and the pods it knows."""

    def __init__(self, folder: Path) -> None:
        found = manifests(VALUES)
        kinds = {manifest["kind"]: manifest for manifest in found}
        self._template = one(found, "Deployment")["spec"]["template"]
        self.scaled_by = [trigger["metadata"]["query"] for trigger in kinds["ScaledObject"]["spec"]["triggers"]]
        self._folder = folder
        self._pods: dict[str, dict[str, Any]] = {}
        config = {
            "global": {"scrape_interval": "200ms", "scrape_timeout": "200ms", "evaluation_interval": "200ms"},
            "rule_files": ["rules.yml"],
            "scrape_configs": [scrape_config(kinds["PodMonitor"], "pods.json")],
        }
        (folder / "rules.yml").write_text(shortened(kinds["PrometheusRule"]["spec"]))
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        self.port = free_port()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def add(self, name: str, port: int, release: str = "dualmap") -> None:
        labels = self._template["metadata"]["labels"] | {"app.kubernetes.io/instance": release}
        metadata = {"name": name, "labels": labels, **NAMESPACE}
        self._pods[name] = target({"metadata": metadata, "spec": self._template["spec"]}, f"127.0.0.1:{port}")
        self._write()

    def remove(self, name: str) -> None:
        del self._pods[name]
        self._write()

    def _write(self) -> None:
        whole = self._folder / "pods.new"
        whole.write_text(json.dumps(list(self._pods.values())))
        whole.replace(self._folder / "pods.json")

    async def fired(self) -> list[dict[str, str]]:
        """The labels of all alerts that have fired so far."""
        return await self.ask('count_over_time(ALERTS{alertstate="firing"}[1h])')

    async def ask(self, expression: str) -> list[dict[str, str]]:
        return [sample["metric"] for sample in await asyncio.to_thread(query, self.url, expression)]


@pytest.fixture
def scraping(tmp_path) -> Iterator[Scraping]:
    scraping = Scraping(tmp_path)
    command = [PROMETHEUS, f"--config.file={tmp_path}/prometheus.yml", f"--storage.tsdb.path={tmp_path}/data"]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            [*command, f"--web.listen-address=127.0.0.1:{scraping.port}"], stdout=log, stderr=log
        )
        try:
            yield scraping
        finally:
            process.terminate()
            process.wait(timeout=WAIT_S)


class Answers:
    """What instances do. cached_tokens: found in the cache, of those of a prompt."""

    def __init__(self) -> None:
        self.prompt_tokens = self.cached_tokens = 1_000_000

    async def well(self, conversation: Conversation) -> None:
        details = {"cached_tokens": self.cached_tokens}
        usage = {"prompt_tokens": self.prompt_tokens, "completion_tokens": 3, "prompt_tokens_details": details}
        await conversation.begin_stream()
        for event in ({"choices": [{"text": "a"}]}, {"choices": [{"text": "b"}]}, {"choices": [], "usage": usage}):
            await conversation.send_event(json.dumps(event))
        await conversation.send_event("[DONE]")
        await conversation.end_stream()

    async def break_off(self, conversation: Conversation) -> None:
        await conversation.begin_stream()
        await conversation.send_event(json.dumps({"choices": [{"text": "a"}]}))
        conversation.reset()

    async def hold(self, conversation: Conversation) -> None:
        await conversation.closed_by_gateway()


def asked(pool: str, text: str = "hi", headers: str = "") -> bytes:
    messages = [{"role": "user", "content": text}]
    return post("/v1/chat/completions", {**STREAM, "model": POOLS[pool], "messages": messages}, headers)


async def ask(f: Fleet, *requests: bytes) -> None:
    """One after the other over one connection, however each ends."""
    for request in requests:
        client = await f.client()
        await client.send(request)
        with suppress(asyncio.IncompleteReadError):
            await client.answer()
        client.leave()
    f.forget_clients()


async def make_trouble(f: Fleet, held: list[Client]) -> None:
    """A little of everything that an alert is about."""
    late = "x-dualmap-ttft-slo-ms: 1e-9\r\nx-dualmap-tpot-slo-ms: 1e-9\r\n"
    await ask(f, asked("", headers=late), asked("flaky"), asked("gone"))
    held.append(await f.client())
    await held[-1].send(asked("held", f"{len(held)} is a number. " * 1000))
    f.forget_clients()
    gateway, metrics = f.gateway, f.gateway.metrics
    gateway.hear(SignalNews(1, (InstanceSignals("i2", LoadSample(1, 0, 0.5), 60.0),), ()))
    gateway.events.tell(FleetEvent(at=time.time(), kind=EventKind.INSTANCE_LOST, pool="gone", instance_id="i3"))
    gateway.fleet.note((GATEWAY,), (PoolPlan("", 1, 1, most=4),), time.monotonic() - 60.0)
    gateway.scheduler.stats.moves_refused += 100
    metrics.handoffs[Told.NOTHING] += 100
    metrics.reloads = Reloads(refused=metrics.reloads.refused + 1)
    slow = metrics.latencies.of("", "well")
    slow.time_to_first_token_s.observe(5.0)
    slow.estimate_error_s.observe(4.0)
    await asyncio.sleep(POLL_S)  # some rounds to a scrape


def is_among(fired: list[dict[str, str]], name: str, labels: dict[str, str]) -> bool:
    """With these labels: on a busy machine an alert fires for another model, too, and perhaps before."""
    return any(labels.items() <= alert.items() for alert in fired if alert["alertname"] == name)


async def test_each_alert_fires_with_the_labels_of_its_deployment_and_of_what_it_is_about(fleet, scraping):
    answers = Answers()
    held: list[Client] = []
    fired: list[dict[str, str]] = []
    scripts = (answers.well, answers.break_off, answers.hold, answers.well)
    async with fleet(*scripts, pools=tuple(POOLS)) as f:
        well, flaky, slow, gone = (
            f.member(i, pool=pool, model_cards=({"id": model},)) for i, (pool, model) in enumerate(POOLS.items())
        )
        f.apply(well, flaky, slow, replace(gone, state=MemberState.LOST))
        scraping.add("dualmap-1", f.admin_port)
        scraping.add("dualmap-2", free_port())
        scraping.add("other-1", f.admin_port, release="other")
        while len(await scraping.ask('up{job="dualmap"} == 1')) < 2:
            await ask(f, asked("gone"))
        while not await scraping.ask("dualmap:prompt_tokens_cached:ratio_rate6h > 0.9"):
            await ask(f, asked(""))
        answers.cached_tokens, answers.prompt_tokens = 0, 10
        for _ in range(50):
            await make_trouble(f, held)
        scraping.remove("other-1")
        while not all(is_among(fired, name, labels) for name, labels in EXPECTED.items()):
            await make_trouble(f, held)
            fired = await scraping.fired()
        for client in held:
            client.leave()
    for question in scraping.scaled_by:
        assert await scraping.ask(f"last_over_time(({question})[1h:])"), question
    assert {alert["alertname"] for alert in fired} == EXPECTED.keys()


def test_spans_are_shortened_everywhere():
    rules = {"rules": [{"expr": "rate(a[5m]) > 2", "for": "15s"}, {"expr": "rate(a[6h])"}]}
    (first, second) = yaml.safe_load(shortened(rules))["rules"]
    assert first == {"expr": "rate(a[2500ms]) > 2", "for": "125ms"}
    assert second == {"expr": "rate(a[180000ms])"}
