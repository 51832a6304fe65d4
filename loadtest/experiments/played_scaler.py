"""Whoever scales servers that others start, as Kubernetes' HPA does: by the requests in flight, which the gateway
tells. The deployment hears of who comes and goes by its file."""

import math
import threading
import time
from collections import deque

from dualmap.loadtest.experiments.deployed import Deployed
from dualmap.loadtest.experiments.url_servers import UrlServers

LOOK_S = 1.0
IN_FLIGHT = 6.0  # requests that an instance is wanted for
CALM_S = 60.0  # for which fewer have to be wanted, until one goes


class PlayedScaler:
    """From the beginning until `close`. least, most: servers."""

    def __init__(self, deployment: Deployed, servers: UrlServers, least: int, most: int) -> None:
        self._deployment = deployment
        self._servers = servers
        self._least, self._most = least, most
        self._wanted: deque[int] = deque(maxlen=round(CALM_S / LOOK_S))
        self._leaving: list[str] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="scaler", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(LOOK_S):
            try:
                status = self._deployment.status()
            except OSError:
                continue
            known = {member["instance_id"] for member in status["members"]}
            for url in [url for url in self._leaving if url.removeprefix("http://") not in known]:
                self._leaving.remove(url)
                self._servers.remove(url)
            self._wanted.append(wanted(status["in_flight"], self._least, self._most))
            self._step()

    def _step(self) -> None:
        staying = [url for url in self._servers.urls if url not in self._leaving]
        if (more := self._wanted[-1] - len(staying)) > 0:
            self._servers.add(more)
        elif len(self._wanted) == self._wanted.maxlen and max(self._wanted) < len(staying):
            self._leaving.append(staying[-1])
        else:
            return
        self._deployment.change(instances=[url for url in self._servers.urls if url not in self._leaving])
        time.sleep(LOOK_S)  # until the file was read


def wanted(in_flight: int, least: int, most: int) -> int:
    return max(least, min(most, math.ceil(in_flight / IN_FLIGHT)))
