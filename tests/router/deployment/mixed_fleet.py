"""Servers as they are deployed, unlike in all there is, and what stands before them: for test_mixed_pool.py."""

import signal
import subprocess
import sys
from pathlib import Path

import trustme
import yaml

from tests.balancer import Balancer
from tests.conftest import ProcessFamily
from tests.deployment import free_port
from tests.router.certs import write_cert
from tests.router.deployment.mixed_traffic import Kind

NAME = "fleet.test"
ADDRESSES = ("127.0.0.2", "127.0.0.3", "127.0.0.4", "127.0.0.5")
SHORT, LONG = 1024, 16_384  # tokens
FAST = ("--prefill-tokens-per-s", "1000000")


class Server:
    """A simulated server, which may end and start again at its place. flags: those of `dualmap sim-instance`."""

    def __init__(
        self, family: ProcessFamily, *flags: str, host: str = "127.0.0.1", port: int = 0, uds: str = ""
    ) -> None:
        self.host = host
        self.port = port or (0 if uds else free_port())
        place = ("--uds", uds) if uds else ("--host", host, "--port", str(self.port))
        self._command = [sys.executable, "-m", "dualmap.instances.simulated.cli", *place, *FAST, *flags]
        self._family = family
        self.process: subprocess.Popen[str] | None = None

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"

    def start(self, *flags: str) -> None:
        """Returns before it listens."""
        self.process = subprocess.Popen(
            [*self._command, *flags],
            stdout=subprocess.PIPE,
            text=True,
            env=self._family.environment,
            start_new_session=True,
        )

    def await_listening(self) -> None:
        """Fails where another has taken its port meanwhile."""
        assert self.process.stdout.readline().startswith("listening on "), self._command

    def end(self, number: signal.Signals = signal.SIGTERM) -> None:
        self.process.send_signal(number)
        self.close()

    def close(self) -> None:
        """Once it was told to end."""
        if self.process is not None:
            self.process.wait()
            self.process.stdout.close()


class MixedFleet:
    """servers: by name. ids: of the instances that each is for the gateway."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.family = ProcessFamily()
        self.hosts = directory / "hosts"
        self.resolves_to(*ADDRESSES[:3])
        authority = trustme.CA()
        authority.cert_pem.write_to_path(directory / "ca.pem")
        write_cert(directory, authority)
        for key in ("own", "common"):
            (directory / f"{key}.key").write_text(f"{key}-secret\n")
        socket = str(directory / "s")
        tls = ("--ssl-certfile", str(directory / "cert.pem"), "--ssl-keyfile", str(directory / "key.pem"))
        alpha, gamma = ("--model", "alpha"), ("--model", "gamma")
        beta = ("--model", "/models/beta", "--served-model-name", "beta", "beta-latest")
        port = free_port()
        make = self._server
        self.servers = {
            "short": make(*alpha, "--max-model-len", str(SHORT)),
            "long": make(*alpha, "--max-model-len", str(LONG)),
            "keyed": make(*beta, "--api-key", "own-secret"),
            "tls": make(*beta, *tls, "--api-key", "common-secret"),
            "socket": make(*gamma, "--lora", "sql", uds=socket),
            "prefixed": make(*gamma, "--lora", "tone"),
            **{f"named-{address}": make(*beta, host=address, port=port) for address in ADDRESSES},
            **{f"balanced-{number}": make(*gamma) for number in range(3)},
        }
        self.behind_prefix = Balancer([self.servers["prefixed"].port], "/llm")
        self.behind_service = Balancer([self.servers[f"balanced-{number}"].port for number in range(2)])
        self.ids = {name: [server.address] for name, server in self.servers.items() if "balanced" not in name}
        self.ids["socket"] = [f"unix:{socket}"]
        self.ids["prefixed"] = [self.behind_prefix.url.removeprefix("http://")]
        self.ids["balanced"] = [self.behind_service.url.removeprefix("http://")]
        self.instances = {
            "short": {"url": f"http://{self.servers['short'].address}"},
            "long": {"url": f"http://{self.servers['long'].address}"},
            "keyed": {"url": f"http://{self.servers['keyed'].address}", "key_file": str(directory / "own.key")},
            "tls": {"url": f"https://{self.servers['tls'].address}", "ca_file": str(directory / "ca.pem")},
            "socket": {"url": f"unix://{socket}"},
            "prefixed": {"url": self.behind_prefix.url},
            "named": {"url": f"http://{NAME}:{port}"},
            "balanced": {"url": self.behind_service.url, "behind_balancer": True},
        }

    def _server(self, *flags: str, **place: object) -> Server:
        return Server(self.family, *flags, **place)

    @property
    def kinds(self) -> list[Kind]:
        beta = frozenset({"keyed", "tls", *(name for name in self.servers if name.startswith("named"))})
        gamma = frozenset({"socket", "prefixed", "balanced"})
        return [
            *[Kind("alpha", "alpha", 20, frozenset({"short", "long"}))] * 3,
            *[Kind("alpha", "alpha", 2_000, frozenset({"long"}))] * 2,
            *[Kind("assistant", "alpha", 20, frozenset({"short", "long"}))],
            *[Kind("beta", "beta", 100, beta)] * 4,
            *[Kind("beta-latest", "beta", 20, beta)],
            *[Kind("gamma", "gamma", 100, gamma)] * 3,
            *[Kind("sql", "sql", 20, frozenset({"socket"}))] * 2,
            *[Kind("tone", "tone", 20, frozenset({"prefixed"}))] * 2,
        ]

    def write_config(self, *without: str) -> None:
        """Of all instances but those."""
        config = {
            "instances": [instance for name, instance in self.instances.items() if name not in without],
            "gateway": {"instance_key_file": str(self.directory / "common.key")},
            "model_aliases": {"assistant": "alpha"},
        }
        path = self.directory / "dualmap.yaml"
        path.with_suffix(".new").write_text(yaml.safe_dump(config))
        path.with_suffix(".new").rename(path)

    def resolves_to(self, *addresses: str) -> None:
        self.hosts.with_suffix(".new").write_text("".join(f"{address} {NAME}\n" for address in addresses))
        self.hosts.with_suffix(".new").rename(self.hosts)

    def close(self) -> None:
        self.behind_prefix.close()
        self.behind_service.close()
        self.family.kill()
        for server in self.servers.values():
            server.close()
