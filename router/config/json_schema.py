"""The JSON schema of a deployment file, for editors: `dualmap check --schema`."""

from typing import Any

from pydantic import BaseModel

from dualmap.router.config.config import DualMapConfig
from dualmap.router.config.descriptions import descriptions
from dualmap.router.config.gateway_settings import (
    CorsSettings,
    GatewaySettings,
    LogSettings,
    PickerSettings,
    TraceSettings,
)
from dualmap.router.config.kv_transfer import KvTransfer
from dualmap.router.config.pool_settings import (
    Discovery,
    ExternalInstance,
    KubernetesDiscovery,
    KvEvents,
    PoolSettings,
    SimulatedInstances,
    VllmInstances,
    VllmRole,
)
from dualmap.router.http.limits import HttpLimits
from dualmap.scheduler.config import POLICY_NAMES, SchedulerConfig
from dualmap.scheduler.fleet.scaling_config import RoleBounds, ScalingConfig
from dualmap.scheduler.instance_capacity import InstanceCapacity

DIALECT = "https://json-schema.org/draft/2020-12/schema"
SECTIONS = (
    *(
        GatewaySettings,
        CorsSettings,
        PickerSettings,
        LogSettings,
        TraceSettings,
        HttpLimits,
        SchedulerConfig,
        ScalingConfig,
        RoleBounds,
    ),
    *(PoolSettings, SimulatedInstances, VllmInstances, VllmRole, ExternalInstance, InstanceCapacity, KvEvents),
    *(Discovery, KubernetesDiscovery, KvTransfer),
)
UNITS = {
    "_tokens_per_s": "tokens per second",
    "_s_per_request": "seconds per request",
    "_s": "seconds",
    "_bytes": "bytes",
    "_tokens": "tokens",
    "_blocks": "blocks",
    "_slos": "objectives",
    "_per_replica": "of each replica",
}
VARIABLE = {"type": "string", "pattern": r"\$\{[A-Za-z_][A-Za-z0-9_]*\}", "description": "from the environment"}
TEXT = {"type": "string"}


def json_schema() -> dict[str, Any]:
    """Every key with its meaning, unit and default; what a file may say in another form is allowed in it."""
    schema = DualMapConfig.model_json_schema()
    definitions = schema["$defs"]
    _describe(schema, DualMapConfig)
    for section in SECTIONS:
        _describe(definitions[section.__name__], section)
    definitions["SchedulerConfig"]["properties"]["policy"]["examples"] = list(POLICY_NAMES)
    for starting in (VllmInstances, VllmRole):
        engine_args = definitions[starting.__name__]["properties"]["engine_args"]
        engine_args["anyOf"] = [TEXT, {"type": engine_args.pop("type"), "items": engine_args.pop("items")}]
    for role in ("prefill", "decode"):
        definitions["VllmInstances"]["properties"][role]["anyOf"].append({"type": "integer", "minimum": 1})
    for pool in (schema, definitions["PoolSettings"]):
        instances = pool["properties"]["instances"]
        instances["items"] = {"anyOf": [TEXT, instances["items"]]}
    definitions["Variable"] = VARIABLE
    about = {"title": "A deployment of DualMap", "description": "The file of `dualmap up` and `dualmap pick`."}
    return {"$schema": DIALECT, **schema, **about}


def _describe(schema: dict[str, Any], section: type) -> None:
    """Say what each key means, in the words of the source; a number or a switch may be a variable, too."""
    if not issubclass(section, BaseModel):
        schema.pop("description", None)  # of plain records: it tells programs what they raise
    meanings = descriptions(section)
    if section is DualMapConfig:
        meanings |= descriptions(PoolSettings)
    for name, about in schema["properties"].items():
        unit = next((unit for suffix, unit in UNITS.items() if name.endswith(suffix)), "")
        about["title"] = f"{name}, {unit}" if unit else name
        if name in meanings:
            about["description"] = meanings[name].replace("None", "null")
        _allow_variable(about)


def _allow_variable(about: dict[str, Any]) -> None:
    options = about.get("anyOf", [about])
    if not any(option.get("type") in ("integer", "number", "boolean") or "enum" in option for option in options):
        return
    rules = ("type", "enum", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
    if "anyOf" not in about:
        options = [{rule: about.pop(rule) for rule in rules if rule in about}]
    about["anyOf"] = [*options, {"$ref": "#/$defs/Variable"}]
