"""Sections of a deployment file about the gateways themselves."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, Field, model_validator

from dualmap.router.access.access import Access
from dualmap.router.config.strict import STRICT, AbsolutePath, Port
from dualmap.router.http.cors import Cors
from dualmap.router.http.tls import TlsFiles
from dualmap.router.journal.writer import DEFAULT_MAX_BYTES
from dualmap.router.observe.log_form import LogForm


def _check_origin(origin: str) -> str:
    """What a browser sends: a scheme, a host and perhaps a port. Raises ValueError."""
    if origin in ("*", "null") or re.fullmatch(r"[a-z][a-z0-9+.-]*://[^/?#@*\s,]+", origin, re.IGNORECASE):
        return origin
    raise ValueError('an origin is "*", or a scheme, a host and perhaps a port, with no path: https://chat.example')


Origin = Annotated[str, AfterValidator(_check_origin)]


class PickerSettings(BaseModel):
    """The gateway's port speaks gRPC to a proxy, and names the instance for each of its requests."""

    model_config = STRICT

    # queued: the proxy's message is held until the instance has room, so that requests can still move. immediate: it
    # is answered at once, and requests wait in the instances.
    mode: Literal["queued", "immediate"] = "queued"


class CorsSettings(BaseModel):
    """What pages of other origins may do with the gateway in a browser: by default all that a client may who sends no
    cookies."""

    model_config = STRICT

    origins: list[Origin] = ["*"]  # of the pages, such as https://chat.example; "*": any
    methods: list[str] = ["*"]  # that they may use; "*": all
    headers: list[str] = ["*"]  # that they may send; "*": all
    credentials: bool = False  # whether they may let the browser add cookies and the like
    max_age_s: int = Field(default=600, ge=0)  # how long a browser need not ask again

    def policy(self) -> Cors:
        return Cors(self.origins, self.methods, self.headers, self.credentials, self.max_age_s)


class GatewaySettings(BaseModel):
    """Where gateways listen, who may use them, and what they write."""

    model_config = STRICT

    host: str = "127.0.0.1"  # address that clients reach; 0.0.0.0 to serve other machines, :: over IPv6, too
    port: Port = 8080  # that clients reach; 0 takes a free one
    # Gateway processes that share the port, on each node that has some. 0: none here; those of other hosts join.
    count: int = Field(default=1, ge=0, le=64)
    # Their ids are NAME-0, NAME-1, in request ids, logs and status. None: `gateway`, or this host's name where gateways
    # of several hosts join a Ray cluster.
    name: str | None = Field(default=None, pattern=r"^[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?$", max_length=100)
    picker: PickerSettings | None = None  # `dualmap pick` sets it; None: the port serves OpenAI's API
    on_every_node: bool = False  # on each node of the Ray cluster, not only on that of `dualmap up`
    admin_host: str = "127.0.0.1"  # address of /metrics, /admin and /ui
    admin_port: Port = 8081  # of the first gateway; each further one on a node takes the next; 0 takes a free one
    admin_token_file: Path | None = None  # its content is required as a bearer token on /admin; None: no token is asked
    # Who may use the fleet, see router/access/api_keys.py; None: whoever can reach us. Instances do not get these keys.
    api_keys_file: AbsolutePath | None = None
    # Its content is the bearer token that instances want (vLLM's --api-key); they get it in place of what clients send.
    # None: clients' own keys are passed on, unless api_keys_file says who they are.
    instance_key_file: AbsolutePath | None = None
    # Tenants share no cached prefix, so that none can tell by a first token's time what another has asked: each gets a
    # cache_salt of its own. None: where there are API keys.
    isolate_tenants: bool | None = None
    tls_cert_file: AbsolutePath | None = None  # PEM, the whole chain; with it, the port speaks HTTPS
    tls_key_file: AbsolutePath | None = None  # PEM, without a passphrase
    # What pages of other origins may do in a browser (CORS); null: nothing.
    cors: CorsSettings | None = CorsSettings()
    # Ask each stream's instance for `usage`, and hide it from clients that did not: how much was cached, how long the
    # prompt was. Off, only plain answers and clients that ask for it tell.
    ask_for_usage: bool = True
    # A client who waits so long for the first token of a stream is sent the stream's head and a comment, and then one
    # each so many seconds, so that it and the proxies before it do not give up. 0: nothing is sent before the answer.
    heartbeat_s: float = Field(default=15.0, ge=0)
    # A stream whose instance is lost in mid-answer goes on at another one, so many times at the most. To this end,
    # instances are asked for the token ids of streams; clients that did not ask for ids are shown none. 0: never.
    max_continuations: int = Field(default=2, ge=0)
    # Where a chat's stream can go on in no exact way, it goes on by its text (vLLM's `continue_final_message`): what
    # follows may be other tokens than it would have been. Never with structured output, calls of tools or reasoning in
    # the answer so far, log probabilities, stop strings or several choices.
    continue_by_text: bool = False
    # The model's tokenizer, a directory or a name, as the instances have it, and with their chat template: prompts are
    # then known by their tokens, so that KV events say exactly who holds how much of one. `simulated`: that of
    # simulated instances. Needs dualmap[tokenizer].
    tokenizer: str | None = None
    # A file for Prometheus' file-based discovery, kept up to date: deploy/prometheus/prometheus.yml reads it.
    prometheus_targets: AbsolutePath | None = None
    drain_s: float = Field(default=10.0, ge=0)  # running answers may take this long when the gateway stops
    # And this long where another has taken its place (`dualmap restart --gateways`): nobody waits for their end.
    leave_s: float = Field(default=600.0, ge=0)
    # Every event and the commands it gave, for `dualmap replay-journal`; gzipped if it ends in .gz. `dualmap up` puts
    # the gateway's id into the name.
    journal: AbsolutePath | None = None
    journal_max_bytes: int = Field(default=DEFAULT_MAX_BYTES, gt=0)  # before compression; the journal stops there

    @model_validator(mode="after")
    def _check_security(self) -> Self:
        if (self.tls_cert_file is None) != (self.tls_key_file is None):
            raise ValueError("tls_cert_file and tls_key_file are needed both, or neither")
        if self.picker is not None and (self.api_keys_file is not None or self.isolate_tenants):
            raise ValueError("picker: API keys and cache salts are its proxy's: no api_keys_file, no isolate_tenants")
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

    def cors_policy(self) -> Cors | None:
        return None if self.cors is None else self.cors.policy()

    def access(self, clock: Callable[[], float]) -> Access | None:
        """Raises ApiKeysError and OSError."""
        if self.api_keys_file is None:
            return None
        return Access(self.api_keys_file, clock)

    @property
    def isolates_tenants(self) -> bool:
        return self.api_keys_file is not None if self.isolate_tenants is None else self.isolate_tenants


class LogSettings(BaseModel):
    """Of what happens in the processes of gateways and of Fleet."""

    model_config = STRICT

    # Where lines go. file: one for each process, in a folder of this start in log_dir. stdout: the standard output of
    # `dualmap up`, as containers want it. both: to both.
    to: Literal["file", "stdout", "both"] = "file"
    format: Literal["console", "json"] = "console"  # of the lines; json for collectors of logs
    level: Literal["debug", "info", "warning", "error"] = "info"  # lines below it are not written
    requests: bool = False  # write a line for each request
    max_bytes: int = Field(default=100_000_000, ge=0)  # of a file, before it is begun anew; 0: no limit
    max_files: int = Field(default=5, ge=1)  # of each process that are kept besides the one that is written
    max_starts: int = Field(default=10, ge=1)  # whose folders are kept in log_dir, this one included

    @property
    def form(self) -> LogForm:
        return LogForm(self.format, self.level, self.to, self.max_bytes, self.max_files)


class TraceSettings(BaseModel):
    """OpenTelemetry spans of requests, exported over OTLP/HTTP as JSON. Needs dualmap[otel]."""

    model_config = STRICT

    otlp_endpoint: str | None = (
        None  # such as http://collector:4318/v1/traces; None: as OTEL_EXPORTER_OTLP_ENDPOINT says
    )
    sample: float = Field(default=1.0, ge=0, le=1)  # share of the traces that begin here


def _content(path: Path | None) -> str | None:
    return None if path is None else path.read_text().strip()
