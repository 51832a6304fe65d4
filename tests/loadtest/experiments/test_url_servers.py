"""url_servers.py and played_scaler.py: servers that others start, and who scales them."""

import os
import signal
import urllib.error
import urllib.request

import psutil
import pytest

from dualmap.loadtest.experiments.deployed import MARK
from dualmap.loadtest.experiments.played_scaler import PlayedScaler, wanted
from dualmap.loadtest.experiments.url_servers import UrlServers, instances
from tests.conftest import await_that


def answers(url: str) -> bool:
    try:
        urllib.request.urlopen(f"{url}/health", timeout=5).close()
    except (urllib.error.URLError, OSError):
        return False
    return True


def pids(servers: UrlServers) -> set[int]:
    found = set()
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == servers.mark and process.status() != psutil.STATUS_ZOMBIE:
                found.add(process.pid)
        except psutil.Error:
            continue
    return found


def test_a_server_that_dies_comes_back_where_it_was_and_all_end_with_the_block():
    with instances("local", 1) as (config, servers):
        (url,) = config["instances"]
        await_that(lambda: answers(url), "it serves")
        (before,) = pids(servers)
        os.kill(before, signal.SIGKILL)
        await_that(lambda: pids(servers) - {before} and answers(url), "another one serves")
        servers.add(1)
        (more,) = set(servers.urls) - {url}
        await_that(lambda: answers(more), "another one serves")
        servers.remove(more)
        assert servers.urls == [url]
        assert not answers(more)
    assert pids(servers) == set()


def test_on_ray_the_deployment_starts_them():
    with instances("ray", 3) as (config, servers):
        assert (config, servers) == ({"simulate": {"count": 3}}, None)


@pytest.mark.parametrize(("in_flight", "servers"), [(0, 2), (12, 2), (13, 3), (36, 6), (100, 6)])
def test_as_many_servers_are_wanted_as_requests_are_in_flight_for(in_flight, servers):
    assert wanted(in_flight, 2, 6) == servers


class Fleet:
    """A deployment and its servers in one, in which all happens at once."""

    def __init__(self) -> None:
        self.urls = ["http://a:1", "http://a:2"]
        self.listed = list(self.urls)
        self.in_flight = 0

    def status(self):
        return {"in_flight": self.in_flight, "members": [{"instance_id": url[7:]} for url in self.listed]}

    def change(self, instances) -> None:
        self.listed = instances

    def add(self, count: int) -> None:
        self.urls += [f"http://a:{len(self.urls) + 1 + i}" for i in range(count)]

    def remove(self, url: str) -> None:
        assert url not in self.listed
        self.urls.remove(url)


def test_servers_come_at_once_and_go_one_by_one_when_all_was_calm(monkeypatch):
    monkeypatch.setattr("dualmap.loadtest.experiments.played_scaler.LOOK_S", 0.001)
    monkeypatch.setattr("dualmap.loadtest.experiments.played_scaler.CALM_S", 0.01)
    fleet = Fleet()
    fleet.in_flight = 30
    scaler = PlayedScaler(fleet, fleet, 2, 6)
    try:
        await_that(lambda: len(fleet.listed) == 5, "five are listed")
        fleet.in_flight = 0
        await_that(lambda: len(fleet.urls) == 2, "three have gone")
    finally:
        scaler.close()
    assert fleet.listed == ["http://a:1", "http://a:2"]
