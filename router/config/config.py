"""The configuration of a deployment: `dualmap up CONFIG.yaml`, or the same from flags. Every field has a default
that works."""

import shlex
from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from dualmap.router.access.access import Access
from dualmap.router.access.api_keys import ApiKeysError, load_api_keys
from dualmap.router.config.installed_policies import check_policy, register_installed_policies
from dualmap.router.http.limits import HttpLimits
from dualmap.router.http.tls import TlsFiles
from dualmap.router.journal.writer import DEFAULT_MAX_BYTES
from dualmap.scheduler.config import SchedulerConfig
from dualmap.scheduler.errors import ConfigError
from dualmap.scheduler.events import InstanceCapacity
from dualmap.scheduler.fleet.scaling_config import ScalingConfig

STRICT = ConfigDict(extra="forbid", frozen=True)
for _settings in (SchedulerConfig, ScalingConfig, InstanceCapacity, HttpLimits):
    # Plain dataclasses, so that what uses them needs no pydantic. Read from a file, their unknown keys are errors, too.
    setattr(_settings, "__pydantic_config__", ConfigDict(extra="forbid"))  # noqa: B010

Port = Annotated[int, Field(ge=0, le=65535)]  # 0 takes a free one
PoolName = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$", max_length=63)]
ZmqEndpoint = Annotated[str, Field(pattern=r"^(tcp://.+:\d+|ipc://.+)$")]
OWN_ENGINE_ARGS = ("--host", "--port", "--tensor-parallel-size", "--kv-events-config", "--model")


class ConfigFileError(Exception):
    """The configuration is wrong; one line for each place, with its path, the rule and the value."""


def _content(path: Path | None) -> str | None:
    return None if path is None else path.read_text().strip()


def _is_ip(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _plain_http(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme != "http" or not parts.hostname or parts.path.strip("/") or parts.query:
        raise ValueError("an instance's URL has the form http://HOST:PORT")
    return url


class PickerSettings(BaseModel):
    """The gateway's port speaks gRPC to a proxy, and names the instance for each of its requests."""

    model_config = STRICT

    # queued: the proxy's message is held until the instance has room, so that requests can still move. immediate: it
    # is answered at once, and requests wait in the instances.
    mode: Literal["queued", "immediate"] = "queued"


class GatewaySettings(BaseModel):
    model_config = STRICT

    host: str = "127.0.0.1"  # 0.0.0.0 to serve other machines
    port: Port = 8080
    count: int = Field(default=1, ge=1, le=64)  # gateway processes that share the port, on each node that has some
    picker: PickerSettings | None = None  # `dualmap pick` sets it; None: the port serves OpenAI's API
    on_every_node: bool = False  # of the Ray cluster; else on that of `dualmap up` alone
    admin_host: str = "127.0.0.1"
    admin_port: Port = 8081  # /metrics and /admin of the first gateway; each further one on a node takes the next
    admin_token_file: Path | None = None  # its content is required as a bearer token on /admin; None: no token is asked
    # Who may use the fleet, see router/access/api_keys.py; None: whoever can reach us. Instances do not get these keys
    # but, if they want one, the content of instance_key_file.
    api_keys_file: Annotated[Path, AfterValidator(Path.absolute)] | None = None
    instance_key_file: Annotated[Path, AfterValidator(Path.absolute)] | None = None
    # Tenants share no cached prefix, so that none can tell by a first token's time what another has asked: each gets a
    # cache_salt of its own. None: where there are API keys.
    isolate_tenants: bool | None = None
    tls_cert_file: Annotated[Path, AfterValidator(Path.absolute)] | None = None  # PEM, the whole chain; with it, HTTPS
    tls_key_file: Annotated[Path, AfterValidator(Path.absolute)] | None = None
    # Ask each stream's instance for `usage`, and hide it from clients that did not: how much was cached, how long the
    # prompt was. Off, only plain answers and clients that ask for it tell.
    ask_for_usage: bool = True
    # The model's tokenizer, a directory or a name, as the instances have it, and with their chat template: prompts are
    # then known by their tokens, so that KV events say exactly who holds how much of one. Needs dualmap[tokenizer].
    tokenizer: str | None = None
    # A file for Prometheus' file-based discovery, kept up to date: deploy/prometheus/prometheus.yml reads it.
    prometheus_targets: Annotated[Path, AfterValidator(Path.absolute)] | None = None
    drain_s: float = Field(default=10.0, ge=0)  # running answers may take this long when the gateway stops
    # Every event and the commands it gave, for `dualmap replay-journal`; gzipped if it ends in .gz. `dualmap up` puts
    # the gateway's id into the name.
    journal: Annotated[Path, AfterValidator(Path.absolute)] | None = None
    journal_max_bytes: int = Field(default=DEFAULT_MAX_BYTES, gt=0)  # before compression; the journal stops there

    @field_validator("admin_token_file", "instance_key_file")
    @classmethod
    def _check_token(cls, path: Path | None) -> Path | None:
        try:
            if path is not None and not path.read_text().strip():
                raise ValueError(f"{path} is empty")
        except OSError as error:
            raise ValueError(f"{path} cannot be read: {error.strerror}") from None
        return path

    @field_validator("api_keys_file")
    @classmethod
    def _check_keys(cls, path: Path | None) -> Path | None:
        try:
            if path is not None:
                load_api_keys(path)
        except ApiKeysError as error:
            raise ValueError(str(error)) from None
        return path

    @model_validator(mode="after")
    def _check_security(self) -> Self:
        if (self.tls_cert_file is None) != (self.tls_key_file is None):
            raise ValueError("tls_cert_file and tls_key_file are needed both, or neither")
        if self.instance_key_file is not None and self.api_keys_file is None:
            raise ValueError(
                "instance_key_file is of use with api_keys_file only: else clients' own keys are passed on"
            )
        if self.picker is not None and (self.api_keys_file is not None or self.isolate_tenants):
            raise ValueError("picker: API keys and cache salts are its proxy's: no api_keys_file, no isolate_tenants")
        try:
            self.tls()
        except OSError as error:
            raise ValueError(f"tls_cert_file and tls_key_file: {error}") from None
        return self

    # Secrets are read where they are needed, so that they are in no copy of the configuration.

    def admin_token(self) -> str | None:
        """Raises OSError."""
        return _content(self.admin_token_file)

    def tls(self) -> TlsFiles | None:
        """Raises OSError."""
        if self.tls_cert_file is None or self.tls_key_file is None:
            return None
        return TlsFiles(self.tls_cert_file, self.tls_key_file)

    def access(self, clock: Callable[[], float]) -> Access | None:
        """Raises ApiKeysError and OSError."""
        if self.api_keys_file is None:
            return None
        return Access(self.api_keys_file, clock, _content(self.instance_key_file))

    @property
    def isolates_tenants(self) -> bool:
        return self.api_keys_file is not None if self.isolate_tenants is None else self.isolate_tenants


class LogSettings(BaseModel):
    """Of what happens in the gateways' processes: a file for each in log_dir."""

    model_config = STRICT

    format: Literal["console", "json"] = "console"
    level: Literal["debug", "info", "warning", "error"] = "info"
    requests: bool = False  # a line for each


class TraceSettings(BaseModel):
    """OpenTelemetry spans of requests, exported over OTLP/HTTP as JSON. Needs dualmap[otel]."""

    model_config = STRICT

    otlp_endpoint: str | None = (
        None  # such as http://collector:4318/v1/traces; None: as OTEL_EXPORTER_OTLP_ENDPOINT says
    )
    sample: float = Field(default=1.0, ge=0, le=1)  # of the traces that begin here


class SimulatedInstances(BaseModel):
    """Servers started for us that behave as vLLM does, without a model."""

    model_config = STRICT

    count: int = Field(default=0, ge=0, le=64)
    model: str = "sim"
    lora: tuple[str, ...] = ()  # names of adapters
    max_num_batched_tokens: int = Field(default=8192, gt=0)
    capacity: InstanceCapacity = InstanceCapacity()


class VllmInstances(BaseModel):
    """vLLM servers started for us, one actor in a placement group of its own for each."""

    model_config = STRICT

    model: str | None = None  # a directory or a name, as for `vllm serve`
    replicas: int = Field(default=1, ge=1, le=1024)
    engine_args: tuple[str, ...] = ()  # of `vllm serve`; in a file also one string, split as a shell does
    tensor_parallel_size: int = Field(default=1, ge=1)
    # None: tensor_parallel_size where the Ray cluster has GPUs, else 0, which is for vLLM's CPU build.
    gpus_per_replica: float | None = Field(default=None, ge=0)
    cpus_per_replica: float = Field(default=1.0, gt=0)
    executable: str = "vllm"  # beside our Python, on the PATH, or a path
    env: dict[str, str] = {}
    start_timeout_s: float = Field(default=900.0, gt=0)  # loading and compiling a large model takes minutes
    stop_grace_s: float = Field(default=15.0, ge=0)
    kv_events: bool = False  # let the servers publish what is in their caches
    capacity: InstanceCapacity = InstanceCapacity()  # the size of the KV pool is asked of the server

    @field_validator("model")
    @classmethod
    def _absolute(cls, model: str | None) -> str | None:
        """A directory here is meant from here, wherever the server is started."""
        return str(Path(model).absolute()) if model and Path(model).is_dir() else model

    @field_validator("engine_args", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return tuple(shlex.split(value)) if isinstance(value, str) else value

    @field_validator("engine_args")
    @classmethod
    def _check_engine_args(cls, arguments: tuple[str, ...]) -> tuple[str, ...]:
        for argument in arguments:
            if argument.partition("=")[0] in OWN_ENGINE_ARGS:
                raise ValueError(f"{argument} is set by us")
        return arguments


class KvEvents(BaseModel):
    """Where a running server publishes its KV events: what its --kv-events-config says."""

    model_config = STRICT

    endpoint: ZmqEndpoint = "tcp://*:5557"  # * is the instance's host
    replay_endpoint: ZmqEndpoint | None = None
    topic: str = ""


class ExternalInstance(BaseModel):
    """A vLLM server that runs already."""

    model_config = STRICT

    url: Annotated[str, AfterValidator(_plain_http)]
    capacity: InstanceCapacity = InstanceCapacity()
    kv_events: KvEvents | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_url(cls, value: Any) -> Any:
        return {"url": value} if isinstance(value, str) else value

    @property
    def address(self) -> tuple[str, int]:
        parts = urlsplit(self.url)
        return parts.hostname or "", parts.port or 80

    @property
    def id(self) -> str:
        """Names its place on the rings."""
        host, port = self.address
        return f"{host}:{port}"


class KubernetesDiscovery(BaseModel):
    """Pods as instances: those with these labels that run. Needs dualmap[kubernetes]."""

    model_config = STRICT

    label_selector: str = Field(min_length=1)  # as for `kubectl get pods -l`
    namespace: str | None = None  # None: that of the pod we run in, or of the kubeconfig's context
    port: int = Field(default=8000, ge=1, le=65535)
    capacity: InstanceCapacity = InstanceCapacity()  # of each
    kubeconfig: Path | None = None  # None: the pod's service account, else $KUBECONFIG or ~/.kube/config


class Discovery(BaseModel):
    model_config = STRICT

    kubernetes: KubernetesDiscovery


class PoolSettings(BaseModel):
    """Instances that serve the same models, with rings, an objective and scaling of their own."""

    model_config = STRICT

    scheduler: SchedulerConfig = SchedulerConfig()
    simulate: SimulatedInstances = SimulatedInstances()
    vllm: VllmInstances = VllmInstances()
    instances: tuple[ExternalInstance, ...] = ()
    discovery: Discovery | None = None
    # None: as many instances as are named, until `dualmap scale` says another number. simulate.count or vllm.replicas
    # is how many there are at first.
    scaling: ScalingConfig | None = None

    @property
    def replicas(self) -> int:
        """How many instances are started here, at first, of the kind that can be scaled."""
        return self.vllm.replicas if self.vllm.model else self.simulate.count

    @property
    def is_empty(self) -> bool:
        return not (self.instances or self.discovery or self.simulate.count or self.vllm.model)

    @model_validator(mode="after")
    def _check_instances(self) -> Self:
        if self.vllm.model_fields_set and not self.vllm.model:
            raise ValueError("vllm.model is missing: what are its replicas to serve?")
        both = bool(self.simulate.count) == bool(self.vllm.model)
        if self.scaling is not None and (self.instances or self.discovery or both):
            raise ValueError(
                "scaling is for instances of one kind that are started here: vllm, or simulate with a count"
            )
        return self


class DualMapConfig(PoolSettings):
    """Its own instances, if there are any, are the first pool; its name is empty."""

    gateway: GatewaySettings = GatewaySettings()
    limits: HttpLimits = HttpLimits()
    pools: dict[PoolName, PoolSettings] = {}  # of other models
    ray_address: str | None = None  # a running Ray cluster; None starts one on this machine
    log_dir: Path = Path("runs/logs")  # of the servers we start, and of gateways
    logs: LogSettings = LogSettings()
    traces: TraceSettings | None = None  # None: none are made

    def all_pools(self) -> dict[str, PoolSettings]:
        """By name, the first one first; one or more."""
        pools: dict[str, PoolSettings] = ({} if self.is_empty else {"": self}) | self.pools
        if self.gateway.picker is None or self.gateway.picker.mode == "queued":
            return pools
        return {
            name: pool.model_copy(update={"scheduler": replace(pool.scheduler, gateway_queue=False)})
            for name, pool in pools.items()
        }

    @model_validator(mode="after")
    def _check_pools(self) -> Self:
        pools = self.all_pools()
        if not pools:
            raise ValueError("no instances: name a model, one or more URLs, or simulate some")
        if empty := [name for name, pool in pools.items() if pool.is_empty]:
            raise ValueError(f"pools.{empty[0]} has no instances: name a model, one or more URLs, or simulate some")
        ids = [instance.id for pool in pools.values() for instance in pool.instances]
        if twice := sorted({instance_id for instance_id in ids if ids.count(instance_id) > 1}):
            raise ValueError(f"instances are named twice: {', '.join(twice)}")
        hosts = [instance.address[0] for pool in pools.values() for instance in pool.instances]
        if self.gateway.picker is not None and (names := [host for host in hosts if not _is_ip(host)]):
            raise ValueError(f"gateway.picker: proxies know instances by IP address, not by name: {', '.join(names)}")
        if len({pool.scheduler.block_tokens for pool in pools.values()}) > 1:
            raise ValueError("scheduler.block_tokens must be the same in all pools")
        return self


def load_config(path: Path | None, overrides: dict[str, Any]) -> DualMapConfig:
    """Read the file, if there is one, and lay the overrides over it, section by section. Raises ConfigFileError."""
    values: Any = {}
    if path is not None:
        try:
            values = yaml.safe_load(path.read_text()) or {}
        except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:  # 2026-13-45 is a ValueError
            raise ConfigFileError(f"{path}: {' '.join(str(error).split())}") from None
        if not isinstance(values, dict):
            raise ConfigFileError(f"{path}: must be a mapping of sections, not {type(values).__name__}")
    for section, value in overrides.items():
        known = values.get(section)
        values[section] = {**known, **value} if isinstance(known, dict) and isinstance(value, dict) else value
    try:
        register_installed_policies()
        config = DualMapConfig.model_validate(values)
        for pool in config.all_pools().values():
            check_policy(pool.scheduler)
    except ValidationError as error:
        raise ConfigFileError("\n".join(_describe(item, path) for item in error.errors())) from None
    except ConfigError as error:  # of a package that provides policies
        raise ConfigFileError(f"scheduler.policy: {error}") from None
    return config


def _describe(error: Any, path: Path | None) -> str:
    place = ".".join(str(part) for part in error["loc"]) or "configuration"
    rule = error["msg"].removeprefix("Value error, ")
    if error["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        rule = "unknown key"
    shown = "" if error["type"] == "value_error" else f", not {error['input']!r}"
    return f"{f'{path}: ' if path else ''}{place}: {rule}{shown}"
