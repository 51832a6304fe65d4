"""What each value of the Helm chart changes, and which values it refuses."""

import base64
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest
import yaml

from tests.deploy.chart_variants import EVERYTHING, SCHEMA, VARIANTS, needs_go, one
from tests.deploy.helm_chart import CHART, ChartError, manifests


@needs_go
@pytest.mark.parametrize("drain_s", [0, 2.5, 10, 30, 600])
@pytest.mark.parametrize("given", [None, 1000])
def test_a_pod_has_the_time_to_drain(drain_s, given):
    values = {"config": {"gateway": {"drain_s": drain_s}}, "terminationGracePeriodSeconds": given}
    spec = one(manifests(values), "Deployment")["spec"]["template"]["spec"]
    sleep_s = int(spec["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][1])
    grace_s = spec["terminationGracePeriodSeconds"]
    assert grace_s > sleep_s + drain_s
    assert grace_s == 1000 if given else grace_s < sleep_s + drain_s + 30


@needs_go
@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        (
            {"terminationGracePeriodSeconds": 34, "config": {"gateway": {"drain_s": 29.5}}},
            "terminationGracePeriodSeconds: 34 is too short: preStopSeconds and config.gateway.drain_s take 35 s",
        ),
        (
            {"terminationGracePeriodSeconds": 60, "preStopSeconds": 30},
            "terminationGracePeriodSeconds: 60 is too short: preStopSeconds and config.gateway.drain_s take 60 s",
        ),
        (
            {"picker": {"enabled": True}, "ingress": {"enabled": True, "hosts": ["a"]}},
            "ingress.enabled: a picker serves no HTTP",
        ),
    ],
)
def test_what_would_cut_answers_off_or_lead_nowhere_is_refused_in_words(values, complaint):
    with pytest.raises(ChartError, match=complaint):
        manifests(values)


@needs_go
def test_what_is_given_besides_reaches_the_pods():
    found = manifests(EVERYTHING)
    template = one(found, "Deployment")["spec"]["template"]
    spec = template["spec"]
    (container,) = spec["containers"]
    assert container["args"][-3:] == ["/etc/dualmap/dualmap.yaml", "--log-format", "json"]
    assert EVERYTHING["extraEnv"][0] in container["env"]
    assert container["envFrom"] == EVERYTHING["extraEnvFrom"]
    assert EVERYTHING["extraVolumes"][0] in spec["volumes"]
    assert EVERYTHING["extraVolumeMounts"][0] in container["volumeMounts"]
    assert template["metadata"]["labels"]["team"] == "serving"
    assert spec["priorityClassName"] == "high"
    account = one(found, "ServiceAccount", "gateways")
    assert account["metadata"]["annotations"] == EVERYTHING["serviceAccount"]["annotations"]
    assert spec["serviceAccountName"] == one(found, "RoleBinding")["subjects"][0]["name"] == "gateways"
    spread = spec["topologySpreadConstraints"]
    assert [constraint["maxSkew"] for constraint in spread] == [1, 2]
    labels = template["metadata"]["labels"].items()
    assert all(constraint["labelSelector"]["matchLabels"].items() <= labels for constraint in spread)


@needs_go
def test_one_gateway_needs_no_ray():
    found = manifests({"replicas": 1})
    assert {m["metadata"]["name"] for m in found} == {"dualmap"}
    template = one(found, "Deployment")["spec"]["template"]["spec"]
    (container,) = template["containers"]
    assert container["args"] == ["up", "/etc/dualmap/dualmap.yaml"]
    assert not [entry for entry in container["env"] if entry["name"].startswith("RAY_AUTH")]
    assert template.get("automountServiceAccountToken", True)  # it looks for pods itself


@needs_go
@pytest.mark.parametrize("variant", ["default", "everything", "picker", "kuberay"])
def test_gateways_join_the_head_at_its_service_with_its_token(variant):
    found = manifests(VARIANTS[variant])
    spec = one(found, "Deployment")["spec"]["template"]["spec"]
    (gateway,) = spec["containers"]
    address = gateway["args"][gateway["args"].index("--ray-address") + 1]
    service = one(found, "Service", "dualmap-head")
    (port,) = service["spec"]["ports"]
    assert address == f"ray://{service['metadata']['name']}:{port['port']}"
    if VARIANTS[variant].get("head", {}).get("kuberay"):
        head = one(found, "RayCluster")["spec"]["headGroupSpec"]["template"]
    else:
        deployment = one(found, "Deployment", "dualmap-head")["spec"]
        assert (deployment["replicas"], deployment["strategy"]) == (1, {"type": "Recreate"})
        head = deployment["template"]
    ray, dualmap = head["spec"]["containers"]
    assert port["targetPort"] in {p["name"] for p in ray["ports"] if p["containerPort"] == port["port"]}
    assert service["spec"]["selector"].items() <= head["metadata"]["labels"].items()
    assert dualmap["args"][0] == gateway["args"][0]
    tokens = [
        entry["valueFrom"]["secretKeyRef"]
        for container in (gateway, ray, dualmap)
        for entry in container["env"]
        if entry["name"] == "RAY_AUTH_TOKEN"
    ]
    assert tokens == [tokens[0]] * 3
    made = [m for m in found if m["kind"] == "Secret"]
    if made:
        assert tokens[0]["name"] == made[0]["metadata"]["name"]
        assert len(base64.b64decode(made[0]["data"][tokens[0]["key"]])) == 64
    for policy in (m for m in found if m["kind"] == "NetworkPolicy"):
        if policy["metadata"]["name"] == "dualmap-head":
            (rule,) = policy["spec"]["ingress"]
            (peer,) = rule["from"]
            labels = one(found, "Deployment")["spec"]["template"]["metadata"]["labels"]
            assert peer["podSelector"]["matchLabels"].items() <= labels.items()
            assert rule["ports"] == [{"port": port["port"], "protocol": "TCP"}]
        if policy["metadata"]["name"] == "dualmap":
            (rule,) = (r for r in policy["spec"]["egress"] if r["ports"][0]["port"] == port["port"])
            (peer,) = rule["to"]
            assert peer["podSelector"]["matchLabels"].items() <= head["metadata"]["labels"].items()


@needs_go
def test_each_release_has_a_token_of_its_own_unless_one_is_named():
    def tokens(values: dict) -> list[dict]:
        return [m["data"] for m in manifests(values) if m["kind"] == "Secret"]

    first, second = tokens({}), tokens({})
    assert first != second
    assert tokens({"head": {"tokenSecret": "ray"}}) == []


@needs_go
def test_an_account_that_is_there_is_used_and_none_made():
    found = manifests({"serviceAccount": {"create": False, "name": "mine"}})
    assert not [m for m in found if m["kind"] == "ServiceAccount"]
    assert one(found, "Deployment")["spec"]["template"]["spec"]["serviceAccountName"] == "mine"
    assert one(found, "RoleBinding")["subjects"][0]["name"] == "mine"


@needs_go
@pytest.mark.parametrize("variant", ["everything", "picker"])
def test_routes_lead_to_what_serves(variant):
    found = manifests(VARIANTS[variant])
    service = one(found, "Service")
    (rule,) = one(found, "HTTPRoute")["spec"]["rules"]
    (backend,) = rule["backendRefs"]
    if variant == "picker":
        assert one(found, backend["kind"], backend["name"])["apiVersion"].startswith(f"{backend['group']}/")
        return
    (port,) = service["spec"]["ports"]
    assert backend == {"name": service["metadata"]["name"], "port": port["port"]}
    (host,) = one(found, "Ingress")["spec"]["rules"]
    (path,) = host["http"]["paths"]
    assert path["backend"]["service"] == {"name": service["metadata"]["name"], "port": {"name": port["name"]}}


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_values_schema_takes_what_the_tests_render(variant):
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    jsonschema.validate(values | VARIANTS[variant] | {"vllm": values["vllm"]}, SCHEMA)


@pytest.mark.parametrize(
    "values",
    [
        {"replica": 2},
        {"replicas": 0},
        {"head": {"tokensecret": "a"}},
        {"picker": {"mode": "sometimes"}},
        {"service": {"type": "Public"}},
        {"discovery": {"labels": {}}},
        {"image": {"tag": "latest"}},
        {"vllm": {"enable": True}},
        {"config": {"gateway": {"port": 9}}},
        {"ingress": {"enabled": True, "hosts": []}},
        {"httpRoute": {"enabled": True, "parentRefs": []}},
        {"topologySpread": [{"topologyKey": "a", "maxSkew": 1, "whenUnsatisfiable": "b", "labelSelector": {}}]},
        {"terminationGracePeriodSeconds": "60"},
    ],
)
def test_the_values_schema_refuses_what_would_do_nothing_or_harm(values):
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(values, SCHEMA)


def test_every_value_is_described():
    def undescribed(schema: dict[str, Any], path: str = "") -> Iterator[str]:
        for name, below in schema.get("properties", {}).items():
            if "description" not in below:
                yield f"{path}{name}"
            if name != "config" and "properties" in below:
                assert below["additionalProperties"] is False, name
                yield from undescribed(below, f"{path}{name}.")

    assert list(undescribed(SCHEMA)) == []
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    jsonschema.validate(values, SCHEMA)
    assert values.keys() == SCHEMA["properties"].keys()
