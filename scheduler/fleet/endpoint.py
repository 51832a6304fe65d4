"""Where an instance's server is reached, and how."""

from dataclasses import KW_ONLY, dataclass, replace

DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A port of a host, or a socket of this machine. It holds no secret: files are named, and read where their content
    is used.

    host: a name, or an IP address without brackets.
    socket: path of a unix socket, in place of host and port; else empty.
    prefix: before all paths of the server: empty, or /one or /more/segments.
    ca_file: PEM, certificates that vouch for the server's; empty: those of the system.
    server_name: as the server is called in its certificate and in requests; empty: as the host is.
    key_file: what it holds is the bearer token of requests; empty: there is none.
    rank: of the data-parallel engine there that is meant; None: the server has one, or chooses one itself.
    bootstrap_port: where who is to read its KV cache asks for its engine; 0: where all of its pool do, if any.
    """

    host: str = ""
    port: int = 0
    _: KW_ONLY
    tls: bool = False
    socket: str = ""
    prefix: str = ""
    ca_file: str = ""
    server_name: str = ""
    key_file: str = ""
    rank: int | None = None
    bootstrap_port: int = 0

    @property
    def instance_id(self) -> str:
        """Of an instance that has no other name: what the rings hash."""
        server = f"unix:{self.socket}" if self.socket else host_port(self.host, self.port) + self.prefix
        return server if self.rank is None else f"{server}@{self.rank}"

    @property
    def server(self) -> "Endpoint":
        """The same for all ranks of one server."""
        return self if self.rank is None else replace(self, rank=None)

    @property
    def authority(self) -> str:
        """As the server calls itself: a name and, where it is not the usual one, a port."""
        if self.socket:
            return self.server_name or "localhost"
        name = self.server_name or self.host
        if self.port == DEFAULT_PORTS[self.scheme]:
            return f"[{name}]" if ":" in name else name
        return host_port(name, self.port)

    @property
    def scheme(self) -> str:
        return "https" if self.tls else "http"

    def __str__(self) -> str:
        """http://10.0.0.7:8000/prefix, http://10.0.0.7:8000@3, unix:/run/vllm.sock."""
        return self.instance_id if self.socket else f"{self.scheme}://{self.instance_id}"


NOWHERE = Endpoint()  # of a server that is to be started


def host_port(host: str, port: int) -> str:
    """HOST:PORT, an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
