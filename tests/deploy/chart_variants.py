"""Values of the Helm chart that its tests render, and how they look into what comes of them."""

import json
from typing import Any

import pytest

from tests.deploy.helm_chart import CHART, can_render

needs_go = pytest.mark.skipif(not can_render(), reason="without Go and sprig (see helm_chart.py) nothing is rendered")

SECRETS = {
    "adminTokenSecret": "admin",
    "apiKeysSecret": "keys",
    "instanceKeySecret": "vllm-key",
    "tlsSecret": "tls",
}
EVERYTHING = SECRETS | {
    "vllm": {"enabled": True, "autoscaling": {"enabled": True}},
    "podMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
    "prometheusRule": {"enabled": True},
    "dashboards": {"enabled": True},
    "networkPolicy": {
        "clients": [{"namespaceSelector": {}}],
        "monitoring": [{"namespaceSelector": {}}],
        "egress": [{"ports": [{"port": 4318, "protocol": "TCP"}]}],
    },
    "podAnnotations": {"a": "b"},
    "imagePullSecrets": [{"name": "registry"}],
    "nodeSelector": {"disk": "ssd"},
    "podLabels": {"team": "serving"},
    "priorityClassName": "high",
    "extraArgs": ["--log-format", "json"],
    "extraEnv": [{"name": "OTEL_EXPORTER_OTLP_ENDPOINT", "value": "http://collector:4318"}],
    "extraEnvFrom": [{"secretRef": {"name": "proxies"}}],
    "extraVolumes": [{"name": "tokenizer", "persistentVolumeClaim": {"claimName": "tokenizer"}}],
    "extraVolumeMounts": [{"name": "tokenizer", "mountPath": "/tokenizer", "readOnly": True}],
    "secretKeys": {"adminToken": "password"},
    "serviceAccount": {"name": "gateways", "annotations": {"eks.amazonaws.com/role-arn": "arn:aws:iam::1:role/a"}},
    "ingress": {
        "enabled": True,
        "className": "nginx",
        "annotations": {"nginx.ingress.kubernetes.io/proxy-buffering": "off"},
        "hosts": ["llm.example.org"],
        "tls": [{"hosts": ["llm.example.org"], "secretName": "llm"}],
    },
    "httpRoute": {"enabled": True, "parentRefs": [{"name": "gateway"}], "hostnames": ["llm.example.org"]},
    "topologySpread": [
        {"topologyKey": "topology.kubernetes.io/zone", "maxSkew": 1, "whenUnsatisfiable": "DoNotSchedule"},
        {"topologyKey": "kubernetes.io/hostname", "maxSkew": 2, "whenUnsatisfiable": "ScheduleAnyway"},
    ],
}
VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "everything": EVERYTHING,
    "picker": {
        "picker": {"enabled": True},
        "vllm": {"enabled": True},
        "httpRoute": {"enabled": True, "parentRefs": [{"name": "gateway"}]},
    },
    "kuberay": {"head": {"kuberay": True, "tokenSecret": "ray"}, "replicas": 3, "secretKeys": {"clusterToken": "ray"}},
    "roles": {
        "vllm": {
            "enabled": True,
            "args": ["--seed", "1"],
            "roles": {
                "prefill": {"replicas": 3, "args": ["--max-num-seqs", "8"], "maxReplicas": 6},
                "decode": {"resources": {"limits": {"nvidia.com/gpu": 2}}, "minReplicas": 2},
            },
            "autoscaling": {"enabled": True},
        },
    },
    "bare": {
        "podDisruptionBudget": {"enabled": False},
        "networkPolicy": {"enabled": False},
        "replicas": 1,
        "topologySpread": [],
        "serviceAccount": {"create": False},
    },
}
SCHEMA = json.loads((CHART / "values.schema.json").read_text())


def one(found: list[dict[str, Any]], kind: str, name: str = "dualmap") -> dict[str, Any]:
    (manifest,) = (m for m in found if m["kind"] == kind and m["metadata"]["name"] == name)
    return manifest
