"""The Helm chart's manifests, rendered by Helm's own engine (helm_render/main.go); needs Debian's packages golang-go
and golang-github-masterminds-sprig-dev. `python -m tests.deploy.helm_chart` writes the plain manifests."""

import functools
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import yaml

from tests.conftest import WAIT_S

ROOT = Path(__file__).parents[2]
CHART = ROOT / "deploy" / "helm" / "dualmap"
GO_PATH = Path("/usr/share/gocode")
SPRIG = GO_PATH / "src" / "github.com" / "Masterminds" / "sprig"
KUBERNETES = ROOT / "deploy" / "kubernetes"
TOKEN = {"head": {"tokenSecret": "dualmap-head"}}
PLAIN = {"gateway.yaml": TOKEN, "picker.yaml": TOKEN | {"picker": {"enabled": True}}}  # by file: values
HEAD = (
    "# Made of deploy/helm/dualmap by `python -m tests.deploy.helm_chart`, for those without Helm. Values: {values}\n"
    "# First: kubectl create secret generic dualmap-head --from-literal=token=$(openssl rand -hex 32)\n"
)


def can_render() -> bool:
    return shutil.which("go") is not None and SPRIG.exists()


@functools.cache
def _folder() -> "tempfile.TemporaryDirectory[str]":
    """Of the renderer; goes with this process."""
    folder = tempfile.TemporaryDirectory(prefix="helm-render-")
    source = Path(__file__).parent / "helm_render"
    env = {
        **os.environ,
        "GO111MODULE": "off",
        "GOPATH": str(GO_PATH),
        "GOFLAGS": "",
        "GOCACHE": str(Path(folder.name) / "cache"),
    }
    out = Path(folder.name) / "render"
    subprocess.run(["go", "build", "-o", str(out), "."], cwd=source, env=env, check=True, timeout=WAIT_S)
    return folder


class ChartError(Exception):
    """What the chart says of values that it refuses."""


def rendered(values: dict[str, Any] | None = None) -> str:
    """As `helm template dualmap deploy/helm/dualmap --namespace default` gives it. Raises ChartError."""
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        yaml.safe_dump(values or {}, file)
        file.flush()
        command = [str(Path(_folder().name) / "render"), str(CHART), file.name, "dualmap", "default"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S)
    if done.returncode != 0:
        raise ChartError(done.stderr)
    return done.stdout


def manifests(values: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    return [manifest for manifest in yaml.safe_load_all(rendered(values)) if manifest]


def plain(values: dict[str, Any]) -> str:
    head = HEAD.format(values=json.dumps(values))
    return head + "".join(f"---\n{yaml.safe_dump(manifest, sort_keys=False)}" for manifest in manifests(values))


if __name__ == "__main__":
    for name, chosen in PLAIN.items():
        (KUBERNETES / name).write_text(plain(chosen))
