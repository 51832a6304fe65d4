"""The deployment as an application of Ray Serve, for KubeRay's RayService: its one replica starts `dualmap up` on the
cluster and keeps it. Clients talk to the gateways' own port; no request passes through Serve.

    DUALMAP_CONFIG=/etc/dualmap/dualmap.yaml serve run serve_app:app
"""

import os
import signal
import subprocess
import sys

from ray import serve

CONFIG = os.environ.get("DUALMAP_CONFIG", "/etc/dualmap/dualmap.yaml")
STOP_TIMEOUT_S = 120.0  # above gateway.drain_s
ON_THE_HEAD = {"num_cpus": 0, "resources": {"gateway": 0.01}}  # where the service looks for gateways


@serve.deployment(num_replicas=1, ray_actor_options=ON_THE_HEAD, graceful_shutdown_timeout_s=STOP_TIMEOUT_S)
class DualMap:
    def __init__(self) -> None:
        command = [sys.executable, "-m", "dualmap", "up", "--ray-address", "auto", CONFIG]
        self._process = subprocess.Popen(command)

    def check_health(self) -> None:
        """Raises RuntimeError once the deployment has ended: Serve then starts it anew."""
        code = self._process.poll()
        if code is not None:
            raise RuntimeError(f"`dualmap up` has ended with exit code {code}; its last lines say why")

    def __call__(self) -> str:
        return "Requests go to the gateways' own port."

    def __del__(self) -> None:
        """Running answers end first."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait(STOP_TIMEOUT_S)


app = DualMap.bind()
