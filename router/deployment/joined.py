"""Gateways of this host that join a deployment whose Fleet is on another one: all that `dualmap up` does there."""

import threading
from collections.abc import Callable

from dualmap.router.config.config import DualMapConfig
from dualmap.router.config.reload import ConfigFile
from dualmap.router.deployment.gateways import Gateways
from dualmap.router.deployment.local_runtime import LocalRuntime
from dualmap.router.reach.names import namespace_of
from dualmap.router.reach.reach import Call, CallError
from dualmap.scheduler.fleet.fleet_event import FleetEvent

ROUND_S = 0.5


class SaidEvents:
    """say: is told a line of what happens here; the other hosts' own commands say what happens there."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say

    def tell(self, event: FleetEvent) -> None:
        self._say(event.sentence())


class Joined:
    """They start, serve and go on without that host: they know what they knew, and join who takes its place. say: is
    told each step, for a person to read."""

    def __init__(self, config: DualMapConfig, say: Callable[[str], None]) -> None:
        assert config.ray_address is not None
        self.events = SaidEvents(say)
        self._address = config.ray_address
        self._say = say
        log_dir = config.log_dir.absolute() if config.logs.form.written else None
        joins = (config.ray_address, namespace_of(config.deployment))
        self._runtime = LocalRuntime(log_dir, say, joins)
        self._gateways = Gateways(config, self._runtime, say)
        self._hello: Call | None = None
        self._why: str | None = None  # calls are not passed on; empty: they are; None: not known yet

    def start_instances(self) -> None:
        """There are none of this host. Raises ClusterError."""
        self._runtime.start()
        self._gateways.prepare()

    def start_gateway(self, config: DualMapConfig) -> tuple[int, int, int]:
        """See Gateways."""
        return self._gateways.start(config)

    def look_after(self, stop: threading.Event, file: ConfigFile) -> None:
        """Until `stop`: take over what changes in the file, and say who is joined."""
        while not stop.wait(ROUND_S):
            file.news()
            if file.reloads.applied or file.reloads.refused:
                self._gateways.reconfigure(file)
            self._gateways.round()
            self._look_at_link()

    def stop(self) -> None:
        """Leaves no process behind; may be called at any time, also twice."""
        if self._runtime.runs:
            self._gateways.stop()
            self._runtime.stop()

    def _look_at_link(self) -> None:
        if self._hello is None:
            self._hello = self._runtime.hello()
        elif self._hello.done():
            call, self._hello = self._hello, None
            try:
                call.result()
                why = ""
            except CallError as error:
                why = str(error)
            if why != self._why:
                self._why = why
                self._say(f"{why}; gateways go on by what they know" if why else f"joined {self._address}")
