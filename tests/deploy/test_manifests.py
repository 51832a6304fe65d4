"""What deploy/ has for Kubernetes: rendered, held against Kubernetes' schemas, and against itself."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from dualmap.router.config.load import load_config
from tests.deploy.chart_variants import EVERYTHING, SECRETS, VARIANTS, needs_go, one
from tests.deploy.helm_chart import KUBERNETES, PLAIN, ROOT, manifests, plain

KUBERAY = sorted((ROOT / "deploy" / "kuberay").glob("*.yaml"))
CUSTOM = {
    "HTTPRoute",
    "PodMonitor",
    "PrometheusRule",
    "InferencePool",
    "RayCluster",
    "RayJob",
    "RayService",
    "ScaledObject",
}  # no schema at hand


def documents(path: Path) -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


def pod_specs(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        if "containers" in value:
            yield value
        for below in value.values():
            yield from pod_specs(below)
    elif isinstance(value, list):
        for below in value:
            yield from pod_specs(below)


def check(manifest: dict[str, Any]) -> None:
    assert {"apiVersion", "kind", "metadata"} <= manifest.keys()
    if manifest["kind"] not in CUSTOM:
        kubernetes_validate.validate(manifest, "1.37", strict=True)


def check_pod(spec: dict[str, Any]) -> None:
    """No pod of ours needs more than this."""
    security = spec["securityContext"]
    assert security["runAsNonRoot"] is True
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    mounts = {volume["name"] for volume in spec["volumes"]}
    for container in spec["containers"]:
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert container["resources"]["limits"]
        tag = container["image"].rpartition(":")[2]
        assert tag != "latest"
        assert tag[0] in "v0123456789"
        assert {mount["name"] for mount in container["volumeMounts"]} <= mounts


@needs_go
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_chart_gives_manifests_that_kubernetes_takes(variant):
    found = manifests(VARIANTS[variant])
    names = [(m["kind"], m["metadata"]["name"]) for m in found]
    assert len(set(names)) == len(names)
    for manifest in found:
        check(manifest)
        assert manifest["metadata"]["namespace"] == "default"
    for spec in pod_specs(found):
        check_pod(spec)


@needs_go
@pytest.mark.parametrize("variant", VARIANTS)
def test_ports_and_labels_agree(variant):
    found = manifests(VARIANTS[variant])
    deployment, service = one(found, "Deployment"), one(found, "Service")
    template = deployment["spec"]["template"]
    labels = template["metadata"]["labels"]
    (container,) = template["spec"]["containers"]
    config = yaml.safe_load(one(found, "ConfigMap")["data"]["dualmap.yaml"])
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports["admin"] == config["gateway"]["admin_port"]
    (port,) = service["spec"]["ports"]
    assert ports[port["targetPort"]] == config["gateway"]["port"]
    selectors = [service["spec"]["selector"], deployment["spec"]["selector"]["matchLabels"]]
    for kind in ("PodDisruptionBudget", "PodMonitor"):
        ours = [m for m in found if (m["kind"], m["metadata"]["name"]) == (kind, "dualmap")]
        selectors += [m["spec"]["selector"]["matchLabels"] for m in ours]
    for policy in (m for m in found if m["kind"] == "NetworkPolicy" and m["metadata"]["name"] == "dualmap"):
        selectors.append(policy["spec"]["podSelector"]["matchLabels"])
        allowed = {p["port"] for rule in policy["spec"]["ingress"] for p in rule["ports"]}
        assert allowed == set(ports.values())
    assert all(selector.items() <= labels.items() for selector in selectors)
    if "args" in container and container["args"][0] == "pick":
        assert int(container["args"][container["args"].index("--grpc-port") + 1]) == config["gateway"]["port"]
        pool = one(found, "InferencePool")["spec"]
        assert pool["endpointPickerRef"] == {"name": "dualmap", "port": {"number": 9002}, "failureMode": "FailOpen"}
        assert pool["targetPorts"] == [{"number": config["discovery"]["kubernetes"]["port"]}]


@needs_go
def test_pods_that_the_chart_starts_are_the_ones_that_the_gateway_looks_for():
    found = manifests(VARIANTS["everything"])
    vllm = one(found, "Deployment", "dualmap-vllm")["spec"]["template"]
    discovery = yaml.safe_load(one(found, "ConfigMap")["data"]["dualmap.yaml"])["discovery"]["kubernetes"]
    wanted = dict(term.split("=") for term in discovery["label_selector"].split(","))
    assert wanted.items() <= vllm["metadata"]["labels"].items()
    assert vllm["spec"]["containers"][0]["ports"][0]["containerPort"] == discovery["port"]
    gateway = one(found, "Deployment")["spec"]["template"]["metadata"]["labels"]
    assert not wanted.items() <= gateway.items()
    policy = one(found, "NetworkPolicy", "dualmap-vllm")["spec"]
    (rule,) = policy["ingress"]
    assert rule["from"][0]["podSelector"]["matchLabels"].items() <= gateway.items()


@needs_go
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_configuration_is_one_that_dualmap_takes(variant, tmp_path):
    config = yaml.safe_load(one(manifests(VARIANTS[variant]), "ConfigMap")["data"]["dualmap.yaml"])
    for name in list(config["gateway"]):
        if name.endswith("_file"):
            del config["gateway"][name]  # there are no secrets here
    path = tmp_path / "dualmap.yaml"
    path.write_text(yaml.safe_dump(config))
    loaded = load_config(path, {})
    assert loaded.discovery is not None
    assert loaded.gateway.host == "0.0.0.0"


@needs_go
def test_secrets_are_mounted_where_the_configuration_looks_for_them():
    found = manifests(EVERYTHING)
    gateway = yaml.safe_load(one(found, "ConfigMap")["data"]["dualmap.yaml"])["gateway"]
    spec = one(found, "Deployment")["spec"]["template"]["spec"]
    mounts = {mount["name"]: mount["mountPath"] for mount in spec["containers"][0]["volumeMounts"]}
    secrets = {v["secret"]["secretName"]: mounts[v["name"]] for v in spec["volumes"] if "secret" in v}
    files = [value for name, value in gateway.items() if name.endswith("_file")]
    assert len(files) == 5
    assert Path(gateway["admin_token_file"]).name == "password"
    assert Path(gateway["api_keys_file"]).name == "keys.yaml"
    assert {str(Path(file).parent) for file in files} == set(secrets.values())
    assert secrets.keys() == set(SECRETS.values())
    probe = spec["containers"][0]["readinessProbe"]["httpGet"]
    assert (probe["path"], probe["scheme"]) == ("/ready", "HTTPS")


@needs_go
def test_rules_and_dashboards_are_those_of_prometheus_and_grafana():
    found = manifests(EVERYTHING)
    rules = yaml.safe_load((ROOT / "deploy" / "prometheus" / "rules.yml").read_text())
    assert one(found, "PrometheusRule")["spec"] == rules
    for name, text in one(found, "ConfigMap", "dualmap-dashboards")["data"].items():
        path = ROOT / "deploy" / "grafana" / name.removeprefix("dualmap-")
        assert json.loads(text) == json.loads(path.read_text())


@needs_go
def test_alerts_link_to_the_runbook_where_the_values_say():
    url = "https://runbooks.example/dualmap"
    rule = one(manifests({"prometheusRule": {"enabled": True, "runbook": url}}), "PrometheusRule")
    links = [r["annotations"]["runbook_url"] for g in rule["spec"]["groups"] for r in g["rules"] if "alert" in r]
    assert links
    assert all(link.startswith(f"{url}#dualmap") for link in links)


@needs_go
@pytest.mark.parametrize("name", PLAIN)
def test_the_plain_manifests_are_those_of_the_chart(name):
    assert (KUBERNETES / name).read_text() == plain(PLAIN[name])


def test_the_route_leads_to_the_pool_of_the_picker():
    (route,) = documents(KUBERNETES / "httproute.yaml")
    check(route)
    pool = one(documents(KUBERNETES / "picker.yaml"), "InferencePool")
    (backend,) = route["spec"]["rules"][0]["backendRefs"]
    group, _ = pool["apiVersion"].split("/")
    assert backend == {"group": group, "kind": "InferencePool", "name": pool["metadata"]["name"]}


def test_the_example_of_an_autoscaler_is_sound():
    (hpa,) = documents(KUBERNETES / "hpa.yaml")
    check(hpa)


@pytest.mark.parametrize("path", KUBERAY, ids=lambda path: path.name)
def test_kuberay_manifests_are_sound(path):
    for manifest in documents(path):
        check(manifest)
        for spec in pod_specs(manifest):
            check_pod(spec)


@pytest.mark.parametrize("name", ["raycluster.yaml", "rayservice.yaml"])
def test_kuberay_runs_the_deployment_of_its_configuration(name):
    config_map, service = documents(ROOT / "deploy" / "kuberay" / "config.yaml")
    found = documents(ROOT / "deploy" / "kuberay" / name)
    cluster = found[0]["spec"].get("rayClusterConfig", found[0]["spec"])
    head = cluster["headGroupSpec"]["template"]
    ports = {port["containerPort"] for container in head["spec"]["containers"] for port in container["ports"]}
    assert service["spec"]["ports"][0]["targetPort"] in ports
    labels = head["metadata"]["labels"] | {"ray.io/node-type": "head"}  # which KubeRay adds
    assert service["spec"]["selector"].items() <= labels.items()
    (workers,) = cluster["workerGroupSpecs"]
    config = yaml.safe_load(config_map["data"]["dualmap.yaml"])
    assert workers["maxReplicas"] == config["scaling"]["max_replicas"]
    for spec in pod_specs(cluster):
        assert any(volume.get("configMap") == {"name": config_map["metadata"]["name"]} for volume in spec["volumes"])


def test_kuberays_configuration_is_one_that_dualmap_takes(tmp_path):
    path = tmp_path / "dualmap.yaml"
    path.write_text(documents(ROOT / "deploy" / "kuberay" / "config.yaml")[0]["data"]["dualmap.yaml"])
    assert load_config(path, {"ray_address": "auto"}).scaling is not None


def test_images_install_what_the_project_has():
    for path in (ROOT / "deploy" / "docker").glob("*.Dockerfile"):
        for line in path.read_text().splitlines():
            if line.startswith("COPY ") and "--from" not in line:
                *sources, _ = line.removeprefix("COPY ").split()
                assert all((ROOT / source).exists() for source in sources), line
        assert "USER 1000" in path.read_text()
