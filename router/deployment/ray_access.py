"""How Ray listens and whom it lets in, said in the environment before Ray is imported: its processes inherit that."""

import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from pathlib import Path

from dualmap.router.local.owned_folder import owned_folder

MODE, TOKEN, TOKEN_PATH = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"
# Ray's name for a node that no other machine joins: all its ports are those of 127.0.0.1, on Linux, too.
SEVERAL_MACHINES = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
TMPDIR = "RAY_TMPDIR"
LONGEST_TMPDIR = 39  # below it come 68 characters of Ray's, and the path of a socket has 107 at the most
FOLDER_PREFIX = "dualmap-ray-"
CONNECT_S = 2.0
AWAIT_POLL_S = 0.5
ASK_S = 15.0  # Ray takes a second or two to import
REFUSED = 3
# In a process of its own: how a process that has imported Ray shows itself stays as it is.
ASK = f"""
import sys
from ray._private.services import canonicalize_bootstrap_address_or_die
from ray._raylet import GcsClient
from ray.exceptions import AuthenticationError
try:
    GcsClient(address=canonicalize_bootstrap_address_or_die(sys.argv[1])).cluster_id
except AuthenticationError:
    sys.exit({REFUSED})
"""


@contextmanager
def ray_access(
    address: str | None, environment: MutableMapping[str, str] = os.environ, home: Path | None = None
) -> Iterator[None]:
    """address: of a cluster to join; None: one is started on this machine, for as long as the block runs. What the
    environment says of Ray's tokens holds. Raises OSError where no folder can be made."""
    if address is not None:
        if MODE not in environment and _has_token(environment, home) and asks_for_token(address, environment):
            environment[MODE] = "token"
        yield
        return
    environment.setdefault(SEVERAL_MACHINES, "0")
    parent = Path(environment.get(TMPDIR) or tempfile.gettempdir())
    with (
        owned_folder(parent, FOLDER_PREFIX) as folder,
        _set(environment, **_token(environment, folder), **_sessions(folder)),
    ):
        yield


def _token(environment: Mapping[str, str], folder: Path) -> dict[str, str]:
    """One of its own, unless the environment says something of that."""
    if MODE in environment or TOKEN in environment or TOKEN_PATH in environment:
        return {}
    path = folder / "auth_token"
    path.touch(0o600)
    path.write_text(secrets.token_hex(32))
    return {MODE: "token", TOKEN_PATH: str(path)}


def _sessions(folder: Path) -> dict[str, str]:
    """Ray keeps logs and sockets of each start, and removes none."""
    return {TMPDIR: str(folder)} if len(str(folder)) <= LONGEST_TMPDIR else {}


@contextmanager
def _set(environment: MutableMapping[str, str], **values: str) -> Iterator[None]:
    before = {name: environment.get(name) for name in values}
    environment.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                environment.pop(name, None)
            else:
                environment[name] = value


def asks_for_token(address: str, environment: Mapping[str, str] = os.environ) -> bool:
    """Whether a cluster refuses who shows none. Who shows one to a cluster that asks for none is not refused, but its
    actors are: they show none in return."""
    command = [sys.executable, "-P", "-c", ASK, address]
    try:
        done = subprocess.run(command, env={**environment, MODE: "disabled"}, capture_output=True, timeout=ASK_S)
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == REFUSED


def await_cluster(address: str, within_s: float) -> None:
    """Returns once something listens there, or it takes too long: joining says why."""
    until = time.monotonic() + within_s
    while time.monotonic() < until and not listens(address):
        time.sleep(AWAIT_POLL_S)


def listens(address: str) -> bool:
    """True also where the address is none of HOST:PORT, such as auto."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_S).close()
    except OSError:
        return False
    except (ValueError, OverflowError):
        pass
    return True


def why_not_joined(address: str, environment: MutableMapping[str, str] = os.environ) -> str:
    """What may be wrong, where Ray says only that it did not connect."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_S).close()
    except (OSError, ValueError, OverflowError):
        return f"does a Ray cluster run at {address}, and can this machine reach it?"
    shown = environment.get(MODE, "disabled")
    if shown != "token":
        return (
            f"something listens at {address}; if the cluster asks for a token, name it in {TOKEN}, in a file in"
            f" {TOKEN_PATH}, or put it into ~/.ray/auth_token"
        )
    return (
        f"something listens at {address}; is the token here the cluster's ({TOKEN}, {TOKEN_PATH}, ~/.ray/auth_token)?"
    )


def _has_token(environment: MutableMapping[str, str], home: Path | None) -> bool:
    given = environment.get(TOKEN) or environment.get(TOKEN_PATH)
    return bool(given) or os.path.exists((home or Path(os.path.expanduser("~"))) / ".ray" / "auth_token")
