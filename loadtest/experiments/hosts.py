"""Several hosts on this machine: a head with Ray, and gateways that join it, each a command of its own."""

import os
import secrets
import shutil
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import yaml

from dualmap.loadtest.experiments.deployed import (
    MARK,
    START_TIMEOUT_S,
    Deployed,
    DeploymentError,
    await_started,
    begin,
    end,
    run_of_free_ports,
)

POLL_S = 0.2


@contextmanager
def hosts(config: Mapping[str, Any], count: int, folder: Path) -> Iterator[tuple[Deployed, Sequence[Deployed]]]:
    """The head, and so many hosts with a gateway each, which know each other. Raises DeploymentError."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "dualmap.yaml"
    path.write_text(yaml.safe_dump({**config, "log_dir": str(folder / "logs")}))
    gcs = run_of_free_ports(2 + 2 * count)
    client, *ports = range(gcs + 1, gcs + 2 + 2 * count)
    ray_folder = tempfile.mkdtemp(prefix="dm-")  # a short path, in which sockets fit
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_TMPDIR": ray_folder}
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, ray_folder, ignore_errors=True)
        head_mark = uuid.uuid4().hex
        ray = ["--head", "--block", f"--port={gcs}", f"--ray-client-server-port={client}", "--num-cpus=0"]
        ray += ["--include-dashboard=false", "--object-store-memory=100000000", "--disable-usage-stats"]
        environment = {**os.environ, **token, MARK: head_mark}
        started = begin([str(Path(sys.executable).parent / "ray"), "start", *ray], environment)
        stack.callback(end, started)
        command = [sys.executable, "-m", "dualmap", "up", str(path)]
        head = begin([*command, "--gateways=0", f"--ray-address=127.0.0.1:{gcs}"], environment)
        stack.callback(end, head)
        await_started(head)
        found = []
        for number in range(count):
            port, admin_port = ports[2 * number : 2 * number + 2]
            mark = uuid.uuid4().hex
            more = [f"--ray-address=ray://127.0.0.1:{client}", f"--gateway-name=host{number}"]
            more += [f"--port={port}", f"--admin-port={admin_port}"]
            process = begin([*command, *more], {**os.environ, **token, MARK: mark})
            stack.callback(end, process)
            await_started(process)
            found.append(Deployed(process, mark, port, admin_port, 0.0, path))
        _await_each_other(found, len(config["instances"]))
        yield Deployed(head, head_mark, 0, 0, 0.0, path), found


def _await_each_other(gateways: Sequence[Deployed], instances: int) -> None:
    until = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < until:
        statuses = [gateway.status() for gateway in gateways]
        ready = [sum(member["state"] == "ready" for member in status["members"]) for status in statuses]
        if min(ready) == instances and min(len(status["gateways"]) for status in statuses) == len(gateways):
            return
        time.sleep(POLL_S)
    raise DeploymentError("the gateways did not find each other and all servers")
