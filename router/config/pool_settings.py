"""Sections of a deployment file about a pool: the instances that serve the same models."""

import shlex
from dataclasses import replace
from itertools import takewhile
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, field_validator, model_validator

from dualmap.router.config.instance_url import MOST_RANKS, is_host, is_ip, read_url, split_ranks
from dualmap.router.config.kv_transfer import NIXL, KvTransfer
from dualmap.router.config.strict import STRICT, AbsolutePath
from dualmap.scheduler.config import SchedulerConfig
from dualmap.scheduler.fleet.endpoint import Endpoint
from dualmap.scheduler.fleet.scaling_config import ScalingConfig
from dualmap.scheduler.instance_capacity import InstanceCapacity
from dualmap.scheduler.role import Role

ZmqEndpoint = Annotated[str, Field(pattern=r"^(tcp://.+:\d+|ipc://.+)$")]
COLD_START_TIMEOUT_S = 300.0  # loading a large model takes minutes
OWN_ENGINE_ARGS = ("--host", "--port", "--tensor-parallel-size", "--kv-events-config", "--model")


def _check_name(name: str) -> str:
    if not is_host(name):
        raise ValueError(f"no host is called {name!r}")
    return name


def _check_url(url: str) -> str:
    read_url(url)
    return url


def _split_arguments(value: Any) -> Any:
    return tuple(shlex.split(value)) if isinstance(value, str) else value


def _check_arguments(arguments: tuple[str, ...]) -> tuple[str, ...]:
    for argument in arguments:
        if argument.partition("=")[0] in OWN_ENGINE_ARGS:
            raise ValueError(f"{argument} is set by us")
    return arguments


EngineArgs = Annotated[tuple[str, ...], BeforeValidator(_split_arguments), AfterValidator(_check_arguments)]


class SimulatedInstances(BaseModel):
    """Servers started for us that behave as vLLM does, without a model."""

    model_config = STRICT

    count: int = Field(default=0, ge=0, le=64)  # of instances that do all of a request, at first; 0: none
    prefill: int = Field(
        default=0, ge=0, le=64
    )  # in place of count: of those that compute prompts for others, at first
    decode: int = Field(default=0, ge=0, le=64)  # with prefill: of those that answer, at first
    model: str = "sim"  # name under which it is served
    lora: tuple[str, ...] = ()  # names of LoRA adapters that are served beside the model
    max_num_batched_tokens: int = Field(default=8192, gt=0)  # computed in one step
    kv_events: bool = False  # let them publish what is in their caches
    capacity: InstanceCapacity = InstanceCapacity()  # of each

    @model_validator(mode="after")
    def _check_roles(self) -> Self:
        if bool(self.prefill) is not bool(self.decode):
            raise ValueError("prefill and decode go together: one computes prompts, the other answers")
        if self.prefill and self.count:
            raise ValueError("count is of instances that do all of a request: name it, or prefill and decode")
        return self

    @property
    def numbers(self) -> dict[Role, int]:
        """How many at first, by role; empty: none."""
        if self.prefill:
            return {Role.PREFILL: self.prefill, Role.DECODE: self.decode}
        return {Role.BOTH: self.count} if self.count else {}


class VllmRole(BaseModel):
    """vLLM servers of one role, started for us."""

    model_config = STRICT

    replicas: int = Field(default=1, ge=1, le=1024)  # servers, at first; this number alone stands for the section, too
    engine_args: EngineArgs = ()  # behind those of both roles; also one string
    tensor_parallel_size: int | None = Field(default=None, ge=1)  # None: as of both roles

    @model_validator(mode="before")
    @classmethod
    def _from_number(cls, value: Any) -> Any:
        return {"replicas": value} if isinstance(value, int | str) else value


class VllmInstances(BaseModel):
    """vLLM servers started for us, one actor in a placement group of its own for each."""

    model_config = STRICT

    model: str | None = None  # a directory or a name, as for `vllm serve`
    replicas: int = Field(default=1, ge=0, le=1024)  # servers, at first; 0 only where scaling.min_replicas is 0
    # In place of replicas: servers that compute prompts for those of `decode`. Both are told --kv-transfer-config,
    # unless their engine_args say it, and where they find each other; NIXL has to be installed.
    prefill: VllmRole | None = None
    decode: VllmRole | None = None  # with prefill: servers that answer
    engine_args: EngineArgs = ()  # further arguments of `vllm serve`; also one string, split as a shell does
    tensor_parallel_size: int = Field(default=1, ge=1)  # GPUs that share a model
    # Reserved on Ray. None: tensor_parallel_size where the Ray cluster has GPUs, else 0, which is for vLLM's CPU build.
    gpus_per_replica: float | None = Field(default=None, ge=0)
    cpus_per_replica: float = Field(default=1.0, gt=0)  # reserved on Ray
    executable: str = "vllm"  # the command: beside our Python, on the PATH, or a path
    env: dict[str, str] = {}  # variables of the servers' environment, besides our own
    start_timeout_s: float = Field(default=900.0, gt=0)  # loading and compiling a large model takes minutes
    stop_grace_s: float = Field(default=15.0, ge=0)  # from SIGTERM to SIGKILL
    kv_events: bool = False  # let the servers publish what is in their caches
    capacity: InstanceCapacity = InstanceCapacity()  # of each; the size of the KV pool is asked of the server

    @field_validator("model")
    @classmethod
    def _absolute(cls, model: str | None) -> str | None:
        """A directory here is meant from here, wherever the server is started."""
        return str(Path(model).absolute()) if model and Path(model).is_dir() else model

    @model_validator(mode="after")
    def _check_roles(self) -> Self:
        if (self.prefill is None) is not (self.decode is None):
            raise ValueError("prefill and decode go together: one computes prompts, the other answers")
        if self.prefill is not None and "replicas" in self.model_fields_set:
            raise ValueError("replicas are servers that do all of a request: name them, or prefill and decode")
        return self

    @property
    def numbers(self) -> dict[Role, int]:
        """How many at first, by role; empty: none, since there is no model."""
        if not self.model:
            return {}
        if self.prefill is None or self.decode is None:
            return {Role.BOTH: self.replicas}
        return {Role.PREFILL: self.prefill.replicas, Role.DECODE: self.decode.replicas}

    def of_role(self, role: Role) -> Self:
        """With the arguments of that role."""
        own = {Role.PREFILL: self.prefill, Role.DECODE: self.decode}.get(role)
        if own is None:
            return self
        size = own.tensor_parallel_size or self.tensor_parallel_size
        return self.model_copy(update={"engine_args": self.engine_args + own.engine_args, "tensor_parallel_size": size})

    @property
    def served_names(self) -> tuple[str, ...]:
        """As clients name the model: one or more, none where there is no model."""
        named: list[str] = []
        for i, argument in enumerate(self.engine_args):
            flag, _, value = argument.partition("=")
            if flag == "--served-model-name":
                following = takewhile(lambda other: not other.startswith("-"), self.engine_args[i + 1 :])
                named = [value] if value else list(following)
        return tuple(named or filter(None, [self.model]))


class KvEvents(BaseModel):
    """Where a running server publishes its KV events: what its --kv-events-config says."""

    model_config = STRICT

    endpoint: ZmqEndpoint = "tcp://*:5557"  # of its publisher; * is the instance's host
    replay_endpoint: ZmqEndpoint | None = None  # where missed events can be asked for
    topic: str = ""  # that its events begin with


class ExternalInstance(BaseModel):
    """A vLLM server that runs already."""

    model_config = STRICT

    # http://HOST:PORT or https://HOST:PORT, with a path where all of the server's paths begin with one, or
    # unix:///PATH of a socket on this machine. Behind it @0..7 or @0,2: ranks of a server with --data-parallel-size,
    # each of them an instance, whose requests bear X-data-parallel-rank.
    url: Annotated[str, AfterValidator(_check_url)]
    capacity: InstanceCapacity = InstanceCapacity()  # what the server can do, or each of its ranks
    # prefill: it computes prompts for others, and answers nobody; decode: it answers, and computes what others do not;
    # both: as one or the other, or all of a request.
    role: Role = Role.BOTH
    # In a rollout: what this server has computed, only one of the same revision can read.
    revision: str = ""
    # Of one that computes prompts, with kv_transfer.connector mooncake: its VLLM_MOONCAKE_BOOTSTRAP_PORT, as servers of
    # one host need ports of their own. None: kv_transfer.bootstrap_port.
    bootstrap_port: int | None = Field(default=None, ge=1, le=65535)
    # Its content is the bearer token that this server wants (--api-key); None: that of gateway.instance_key_file.
    key_file: AbsolutePath | None = None
    # PEM: the authority that has signed the server's certificate, or that certificate itself; None: the system's.
    ca_file: AbsolutePath | None = None
    # The name in the server's certificate, also sent as Host; None: the URL's host.
    server_name: Annotated[str, AfterValidator(_check_name)] | None = None
    # None: it publishes none. Those of a rank come from the port plus the rank, as vLLM does it.
    kv_events: KvEvents | None = None
    # The URL's host is a name of several servers, each of them an instance, followed as DNS changes. None: where the
    # name has several addresses.
    resolve: bool | None = None
    # A load balancer stands before several servers at this URL: it is served as one instance, and no prefix is counted
    # on to be cached there. Off, that is found out where the servers' /metrics differ.
    behind_balancer: bool = False
    # Ask for a token where nothing else tells that the server is alive: at first, if it has no /metrics of vLLM, and
    # when its engine has requests and makes no step.
    probe: bool = True

    @model_validator(mode="before")
    @classmethod
    def _from_url(cls, value: Any) -> Any:
        return {"url": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _check_tls(self) -> Self:
        for name in ("ca_file", "server_name"):
            if getattr(self, name) is not None and not self.endpoint.tls:
                raise ValueError(f"{name} is for https://, and {self.endpoint} has no certificate")
        return self

    @model_validator(mode="after")
    def _check_number(self) -> Self:
        if self.behind_balancer and self.resolve:
            raise ValueError("resolve makes an instance of each address, and behind_balancer one of all: choose one")
        if self.behind_balancer and self.kv_events is not None:
            raise ValueError("kv_events tell of one server's cache, and behind_balancer says that there are several")
        if self.behind_balancer and self.ranks:
            raise ValueError("ranks are those of one server, and behind_balancer says that there are several")
        if self.ranks and self.kv_events is not None and not self.kv_events.endpoint.startswith("tcp://"):
            raise ValueError("kv_events of ranks are published at ports: tcp://*:5557")
        if self.resolve and not self.has_name:
            raise ValueError(f"resolve is for a URL with a host name, not for {self.endpoint}")
        return self

    @property
    def ranks(self) -> tuple[int, ...]:
        """Those that are named; none: the server is one instance."""
        return split_ranks(self.url)[1]

    @property
    def members(self) -> tuple[Self, ...]:
        """An instance for each rank."""
        server, ranks = split_ranks(self.url)
        if len(ranks) < 2:
            return (self,)
        return tuple(self.model_copy(update={"url": f"{server}@{rank}"}) for rank in ranks)

    @property
    def has_name(self) -> bool:
        endpoint = self.endpoint
        return not (endpoint.socket or is_ip(endpoint.host))

    @property
    def follows_name(self) -> bool:
        """Whether its name is one of several servers, if it has several addresses."""
        return self.has_name and not self.behind_balancer and self.resolve is not False

    def at(self, address: str) -> Self:
        """One of the servers of its name."""
        endpoint = self.endpoint
        url = replace(endpoint, host=address)
        return self.model_copy(update={"url": str(url), "server_name": self.server_name or endpoint.host})

    @property
    def endpoint(self) -> Endpoint:
        return replace(
            read_url(self.url),
            key_file=str(self.key_file or ""),
            ca_file=str(self.ca_file or ""),
            server_name=self.server_name or "",
            bootstrap_port=self.bootstrap_port or 0,
        )

    @property
    def id(self) -> str:
        """Names its place on the rings."""
        return self.endpoint.instance_id

    @property
    def purpose(self) -> dict[str, str]:
        """What it is there for, by the names of the settings: where that changes, it leaves, and comes again."""
        return {"role": self.role, "revision": self.revision}


class KubernetesDiscovery(BaseModel):
    """Pods as instances: those with these labels that run. Needs dualmap[kubernetes]."""

    model_config = STRICT

    label_selector: str = Field(min_length=1)  # of the pods, as for `kubectl get pods -l`
    namespace: str | None = None  # None: that of the pod we run in, or of the kubeconfig's context
    port: int = Field(default=8000, ge=1, le=65535)  # on which the pods listen
    data_parallel_size: int = Field(default=1, ge=1, le=MOST_RANKS)  # ranks of each pod's server, each an instance
    capacity: InstanceCapacity = InstanceCapacity()  # of each
    # Label of pods that says their role: prefill, decode, or both (also prefill-decode), as of one without the label.
    role_label: str = Field(default="llm-d.ai/role", min_length=1)
    # Label of pods that says their revision. A DisaggregatedSet of LeaderWorkerSet sets this one.
    revision_label: str = Field(default="disaggregatedset.x-k8s.io/revision", min_length=1)
    probe: bool = True  # as of an instance that is named by its URL
    kubeconfig: Path | None = None  # None: the pod's service account, else $KUBECONFIG or ~/.kube/config


class Discovery(BaseModel):
    """Instances that are found, and not named."""

    model_config = STRICT

    kubernetes: KubernetesDiscovery


class PoolSettings(BaseModel):
    """Instances that serve the same models, with rings, an objective and scaling of their own."""

    model_config = STRICT

    scheduler: SchedulerConfig = SchedulerConfig()  # objectives, policy, and how requests are placed and queued
    simulate: SimulatedInstances = SimulatedInstances()
    vllm: VllmInstances = VllmInstances()
    instances: tuple[ExternalInstance, ...] = ()  # servers that run already: a URL, or one with what it can do
    discovery: Discovery | None = None  # None: no instances are looked for
    kv_transfer: KvTransfer = KvTransfer()  # between instances with roles
    # The number of instances follows the load. None: as many as are named, until `dualmap scale` says another number.
    # simulate.count or vllm.replicas is how many there are at first, or the numbers of their roles. Of instances that
    # others start, the number is only told: dualmap_replicas{bound="wanted"}.
    scaling: ScalingConfig | None = None

    @property
    def replicas(self) -> dict[Role, int]:
        """How many instances are started here, at first, of the kind that can be scaled, by role."""
        return self.vllm.numbers or self.simulate.numbers

    @property
    def scaled_roles(self) -> tuple[Role, ...]:
        """Those of which each has a number of its own; `both` alone: all instances have one."""
        if self.replicas:
            return tuple(self.replicas)
        by_role = self.scaling is not None and self.scaling.prefill is not None
        return (Role.PREFILL, Role.DECODE) if by_role else (Role.BOTH,)

    @property
    def models(self) -> tuple[str, ...]:
        """Names of those that the instances started here serve; what others serve is known when they answer."""
        simulated = (self.simulate.model, *self.simulate.lora) if self.simulate.numbers else ()
        return (*self.vllm.served_names, *simulated)

    @property
    def is_empty(self) -> bool:
        return not (self.instances or self.discovery or self.simulate.numbers or self.vllm.model)

    @model_validator(mode="after")
    def _check_instances(self) -> Self:
        if self.vllm.model_fields_set and not self.vllm.model:
            raise ValueError("vllm.model is missing: what are its replicas to serve?")
        kinds = bool(self.simulate.numbers) + bool(self.vllm.model) + bool(self.instances or self.discovery)
        if self.scaling is not None and kinds != 1:
            raise ValueError("scaling is for instances of one kind: vllm, simulate with a count, or those others start")
        if self.scaling is not None and self.replicas:
            by_role = self.scaling.prefill is not None
            if by_role and Role.BOTH in self.replicas:
                raise ValueError("scaling.prefill and scaling.decode are for instances that have these roles")
            if not by_role and Role.BOTH not in self.replicas:
                raise ValueError("scaling.prefill and scaling.decode are missing: each role is scaled by itself")
        if self.replicas.get(Role.BOTH) == 0 and (self.scaling is None or self.scaling.min_replicas):
            raise ValueError("vllm.replicas: 0 is for pools that scale from zero: scaling.min_replicas must be 0, too")
        if self.kv_transfer.connector != NIXL and Role.PREFILL in self.replicas:
            raise ValueError(f"kv_transfer.connector: what is started here hands prompts over by {NIXL}")
        return self

    @property
    def with_cold_start(self) -> Self:
        """With a time for which requests wait for the first instance, where none is set and none may be there."""
        scheduler = self.scheduler
        if scheduler.cold_start_timeout_s is not None or self.scaling is None or self.scaling.min_replicas:
            return self
        return self.model_copy(update={"scheduler": replace(scheduler, cold_start_timeout_s=COLD_START_TIMEOUT_S)})
