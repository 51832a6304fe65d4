"""Servers that are reached over TLS, over a socket, below a path's prefix, at an IPv6 address or with a key, watched as
they really listen; and what is said of one that cannot be reached so."""

import datetime
import ssl
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
import trustme

from dualmap.instances.simulated.engine_profile import EngineProfile
from dualmap.instances.simulated.front import Front
from dualmap.instances.simulated.listener import Listener
from dualmap.instances.simulated.server import SimServer
from dualmap.instances.spec import InstanceSpec
from dualmap.instances.watcher import watched
from dualmap.router.http import instance_key
from dualmap.scheduler import InstanceCapacity
from dualmap.scheduler.fleet.endpoint import Endpoint
from dualmap.scheduler.fleet.member import MemberState
from tests.instances.watcher.conftest import Watch, is_lost, is_ready

KEY = "secret"
HOST = "127.0.0.1"


@pytest.fixture(autouse=True)
def short(monkeypatch):
    for name in ("READY_POLL", "HEALTH_INTERVAL", "SCRAPE_INTERVAL", "METRICS_AGAIN", "MODELS_INTERVAL"):
        monkeypatch.setattr(watched, f"{name}_S", 0.02)
    monkeypatch.setattr(instance_key, "LOOK_INTERVAL_S", 0.0)


@pytest.fixture
def files(tmp_path):
    """A folder with an authority, a certificate for 127.0.0.1 that it has signed, one that has expired, and a key."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    trustme.CA().cert_pem.write_to_path(tmp_path / "other-ca.pem")
    authority.issue_cert(HOST).private_key_and_cert_chain_pem.write_to_path(tmp_path / "server.pem")
    yesterday = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
    expired = authority.issue_cert(HOST, not_after=yesterday)
    expired.private_key_and_cert_chain_pem.write_to_path(tmp_path / "expired.pem")
    (tmp_path / "key").write_text(f"{KEY}\n")
    return tmp_path


def tls(pem) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    return context


@asynccontextmanager
async def simulated(listener: Listener, front: Front = Front(api_keys=(KEY,))):  # noqa: B008
    """Its port."""
    server = SimServer(EngineProfile(), "m", None, front=front)
    try:
        yield await server.listen(listener)
    finally:
        await server.stop()


def watching(endpoint: Endpoint) -> InstanceSpec:
    return InstanceSpec("i", InstanceCapacity(), endpoint=endpoint)


WAYS = {
    "a port": lambda files: (Listener(HOST, 0), Endpoint(HOST)),
    "TLS": lambda files: (
        Listener(HOST, 0, tls=tls(files / "server.pem")),
        Endpoint(HOST, tls=True, ca_file=str(files / "ca.pem")),
    ),
    "a socket": lambda files: (Listener(HOST, 0, uds=str(files / "s")), Endpoint(socket=str(files / "s"))),
    "a prefix": lambda files: (Listener(HOST, 0), Endpoint(HOST, prefix="/llm")),
    "IPv6": lambda files: (Listener("::1", 0), Endpoint("::1")),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_server_with_a_key_is_watched_whichever_way_it_is_reached(told, files, way):
    listener, endpoint = WAYS[way](files)

    async def tell(watch: Watch) -> None:
        async with simulated(listener, Front(api_keys=(KEY,), root_path="/llm")) as port:
            reached = replace(endpoint, port=port, key_file=str(files / "key"))
            await watch.watch(watching(reached))
            member = await watch.heard(is_ready)
            assert (member.endpoint, [card["id"] for card in member.model_cards]) == (reached, ["m"])
            await watch.until(lambda: any(report.signals.load for report in watch.reports))
            assert not watch.in_state(MemberState.LOST)

    told(tell)


@pytest.mark.parametrize(("key", "reason"), [("", "401: it wants a key"), ("wrong", "401: it refuses the key")])
def test_a_server_that_wants_another_key_says_so_until_it_gets_it(told, files, key, reason):
    (files / "key").write_text(key or KEY)

    async def tell(watch: Watch) -> None:
        async with simulated(Listener(HOST, 0)) as port:
            key_file = str(files / "key")
            await watch.watch(watching(Endpoint(HOST, port, key_file=key_file if key else "")))
            member = await watch.heard(lambda m: m.state is MemberState.STARTING and bool(m.reason))
            assert member.reason.startswith(reason)
            if key:
                (files / "key").write_text(KEY)
                await watch.heard(is_ready)

    told(tell)


@pytest.mark.parametrize(
    ("pem", "more", "reason"),
    [
        ("expired.pem", {"ca_file": "ca.pem"}, "its certificate has expired"),
        ("server.pem", {"ca_file": "other-ca.pem"}, "its certificate is signed by nobody who is known here (ca_file)"),
        ("server.pem", {}, "its certificate is signed by nobody who is known here (ca_file)"),
        (
            "server.pem",
            {"ca_file": "ca.pem", "server_name": "h.test"},
            "its certificate has another name (server_name)",
        ),
        (None, {"ca_file": "ca.pem"}, "no TLS connection"),
    ],
)
def test_a_certificate_that_is_not_right_is_told_in_words(told, files, pem, more, reason):
    listener = Listener(HOST, 0, tls=None if pem is None else tls(files / pem))
    more = {name: str(files / value) if name == "ca_file" else value for name, value in more.items()}

    async def tell(watch: Watch) -> None:
        async with simulated(listener, Front()) as port:
            await watch.watch(watching(Endpoint(HOST, port, tls=True, **more)))
            assert (await watch.heard(is_lost)).reason.startswith(reason)

    told(tell)


def test_a_socket_that_is_not_there_is_told(told, files):
    async def tell(watch: Watch) -> None:
        await watch.watch(watching(Endpoint(socket=str(files / "none"))))
        assert (await watch.heard(is_lost)).reason == "there is no such socket"

    told(tell)
