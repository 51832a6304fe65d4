"""The files of keys and certificates that a configuration names: looked at before anything starts. What they hold is
shown nowhere."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from dualmap.router.access.api_keys import ApiKeysError, load_api_keys
from dualmap.router.config.config import DualMapConfig
from dualmap.router.config.faults import Fault
from dualmap.router.config.rules import place_of
from dualmap.router.http.endpoint_connection import tls_context
from dualmap.router.http.instance_key import WrongKeyError, read_key


def unusable_files(config: DualMapConfig) -> Iterator[Fault]:
    """A fault for each file that cannot be read, is empty, or is not what it should be."""
    settings = config.gateway
    for name in ("admin_token_file", "instance_key_file", "api_keys_file"):
        path: Path | None = getattr(settings, name)
        if path is not None and (rule := _unusable(path) or _CHECKS[name](path)):
            yield Fault(("gateway", name), rule)
    for pool_name, pool in config.all_pools().items():
        for number, instance in enumerate(pool.instances):
            for name in ("key_file", "ca_file"):
                path = getattr(instance, name)
                if path is not None and (rule := _unusable(path) or _CHECKS[name](path)):
                    yield Fault((*place_of(pool_name), "instances", number, name), rule)
    try:
        settings.tls()
    except OSError as error:
        yield Fault(("gateway", "tls_cert_file"), f"tls_cert_file and tls_key_file: {error}")


def _unusable(path: Path) -> str:
    """Why, or empty."""
    try:
        return "" if path.read_text().strip() else f"{path} is empty"
    except OSError as error:
        if path.absolute().parent == Path.cwd():  # it may be the secret itself
            return f"cannot be read: {error.strerror}: the name of a file belongs here, not what it holds"
        return f"{path} cannot be read: {error.strerror}"
    except ValueError:
        return f"{path} is no text"


def _wrong_keys(path: Path) -> str:
    """Why, or empty."""
    try:
        load_api_keys(path)
    except ApiKeysError as error:
        return str(error)
    return ""


def _wrong_key(path: Path) -> str:
    """Why, or empty."""
    try:
        read_key(str(path))
    except WrongKeyError as error:
        return str(error)
    return ""


def _wrong_certificates(path: Path) -> str:
    """Why, or empty."""
    try:
        tls_context(str(path))
    except OSError as error:
        return str(error)
    return ""


_CHECKS: Mapping[str, Callable[[Path], str]] = {
    "admin_token_file": lambda path: "",
    "instance_key_file": _wrong_key,
    "api_keys_file": _wrong_keys,
    "key_file": _wrong_key,
    "ca_file": _wrong_certificates,
}
