"""The files of keys and certificates that a configuration names: looked at before anything starts. What they hold is
shown nowhere."""

from collections.abc import Iterator
from pathlib import Path

from dualmap.router.access.api_keys import ApiKeysError, load_api_keys
from dualmap.router.config.faults import Fault
from dualmap.router.config.gateway_settings import GatewaySettings


def unusable_files(settings: GatewaySettings) -> Iterator[Fault]:
    """A fault for each file that cannot be read, is empty, or is not what it should be."""
    for name in ("admin_token_file", "instance_key_file", "api_keys_file"):
        path: Path | None = getattr(settings, name)
        if path is not None and (rule := _unusable(path) or (_wrong_keys(path) if name == "api_keys_file" else "")):
            yield Fault(("gateway", name), rule)
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
