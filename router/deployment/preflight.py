"""What a deployment needs of this machine, looked at before Ray is even imported, so that a refusal comes at once."""

import os
import socket
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryFile, gettempdir

import dualmap
from dualmap.instances.server.vllm_command import NoVllmError, find_vllm
from dualmap.router.config.config import DualMapConfig
from dualmap.router.config.runtime import uses_ray
from dualmap.router.tokens.load_tokenizer import TokenizerError, load_tokenizer
from dualmap.scheduler.fleet.endpoint import host_port

PICKER_MODULES = ("grpc", "grpc_health", "envoy")


def missing_here(config: DualMapConfig) -> Iterator[str]:
    """A line for each package, command or folder that is not there; nothing is written."""
    yield from _packages(config)
    for pool in config.all_pools().values():
        try:
            if pool.vllm.model:
                find_vllm(pool.vllm.executable)
        except NoVllmError as error:
            yield str(error)
    gateway = config.gateway
    folders = {
        "log_dir": config.log_dir,
        "gateway.journal": gateway.journal and gateway.journal.parent,
        "gateway.prometheus_targets": gateway.prometheus_targets and gateway.prometheus_targets.parent,
    }
    for name, folder in folders.items():
        if folder is not None and (why := _not_writable(folder)):
            yield f"{name}: {why}"
    if config.ray_address is None and uses_ray(config):
        yield from _ray_folders()


def cannot_start(config: DualMapConfig) -> Iterator[str]:
    """What is missing, and what only a start needs: ports that nobody else has, a tokenizer that can be loaded."""
    yield from missing_here(config)
    for path in (Path("dualmap/__init__.py"), Path("dualmap.py")):  # Ray's workers import from the current folder first
        if path.exists() and not path.samefile(dualmap.__file__):
            yield f"{path.absolute()} hides this program from its processes: start it in another folder"
    gateway = config.gateway
    admin_ports = range(gateway.admin_port, gateway.admin_port + gateway.count) if gateway.admin_port else ()
    ports = [(gateway.host, gateway.port)] if gateway.count else []
    for host, port in (*ports, *((gateway.admin_host, port) for port in admin_ports)):
        if why := _not_free(host, port):
            yield why
    if gateway.tokenizer is not None:
        try:
            load_tokenizer(gateway.tokenizer)
        except TokenizerError as error:
            yield str(error)


def _packages(config: DualMapConfig) -> Iterator[str]:
    pools = config.all_pools().values()
    needed = (
        ("traces", "otel", ("opentelemetry.exporter.otlp.json.http",), config.traces is not None),
        ("discovery", "kubernetes", ("kr8s",), any(pool.discovery for pool in pools)),
        ("the endpoint picker", "picker", PICKER_MODULES, config.gateway.picker is not None),
        ("a deployment of several hosts", "hosts", ("grpc",), config.joins or not config.gateway.count),
        ("gateway.tokenizer", "tokenizer", ("transformers", "jinja2"), config.gateway.tokenizer is not None),
    )
    for what, extra, modules, is_wanted in needed:
        if is_wanted and not all(map(_is_installed, modules)):
            yield f"{what} needs more packages: pip install 'dualmap[{extra}]'"


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def _ray_folders() -> Iterator[str]:
    """Where a Ray cluster that is started here writes."""
    if why := _not_writable(Path(os.environ.get("RAY_TMPDIR") or gettempdir())):
        yield f"Ray's sessions: {why}: set RAY_TMPDIR to a folder that can be"


def _not_writable(folder: Path) -> str:
    """Why no file can be made in it, or in the nearest folder above that is there; empty if one can."""
    folder = folder.absolute()
    try:
        there = next(path for path in (folder, *folder.parents) if path.exists() or path.is_symlink())
        with TemporaryFile(dir=there):
            return ""
    except OSError as error:
        return f"{folder} cannot be written: {error.strerror}"


def _not_free(host: str, port: int) -> str:
    """Why nobody can listen there; empty if one can. A gateway may still find it taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return f"cannot listen on {host_port(host, port)}: {error.strerror}"
        except TypeError as error:  # no name that a host can have
            return f"cannot listen on {host!r}: {error}"
    return ""
