"""Names of series that Prometheus has: what gateways serve, by docs/reference/metrics.md, and what rules record."""

import re
from collections.abc import Iterable
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
RULES = ROOT / "deploy" / "prometheus" / "rules.yml"


def rules() -> list[dict]:
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def served() -> set[str]:
    table = (ROOT / "docs" / "reference" / "metrics.md").read_text()
    names = set(re.findall(r"^\| `(dualmap_\w+)` \| (?:counter|gauge)", table, re.MULTILINE))
    for name in re.findall(r"^\| `(dualmap_\w+)` \| histogram", table, re.MULTILINE):
        names |= {f"{name}_{part}" for part in ("bucket", "sum", "count")}
    return names


def recorded() -> set[str]:
    return {rule["record"] for rule in rules() if "record" in rule}


def used(expressions: Iterable[str]) -> set[str]:
    return {name for expression in expressions for name in re.findall(r"\bdualmap[_:][\w:]+", expression)}
