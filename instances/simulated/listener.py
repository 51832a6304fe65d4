"""Where a simulated server listens, by vLLM's own flags (vllm/entrypoints/launchers)."""

import argparse
import socket
import ssl
from dataclasses import dataclass

from dualmap.scheduler.fleet.endpoint import host_port

BACKLOG = 2048  # uvicorn's


def add_listen_arguments(group: "argparse._ArgumentGroup") -> None:
    group.add_argument(
        "--port", type=_port, metavar="PORT", help="port to listen on; 0: a free one (required without --uds)"
    )
    group.add_argument("--host", default="127.0.0.1", metavar="ADDRESS", help="to listen on (default %(default)s)")
    group.add_argument("--uds", metavar="PATH", help="a Unix socket to listen on (default: a port)")
    group.add_argument("--ssl-certfile", metavar="FILE", help="certificate chain, for HTTPS (default: plain HTTP)")
    group.add_argument("--ssl-keyfile", metavar="FILE", help="its private key (default: in the certificate's file)")
    group.add_argument("--ssl-ca-certs", metavar="FILE", help="who vouches for clients (default: nobody)")
    group.add_argument(
        "--ssl-cert-reqs",
        type=int,
        choices=(0, 1, 2),
        default=0,
        metavar="N",
        help="clients need a certificate: 0 no, 1 not unless they have one, 2 yes (default 0)",
    )


@dataclass(frozen=True, slots=True)
class Listener:
    """uds: path of a Unix socket; empty: there is a host and a port."""

    host: str
    port: int
    uds: str = ""
    tls: ssl.SSLContext | None = None

    def bind(self) -> socket.socket:
        """Host `::` takes IPv4 as well where the system lets it, and a path that exists is taken, as with vLLM. Raises
        OSError."""
        family = socket.AF_UNIX if self.uds else socket.AF_INET6 if ":" in self.host else socket.AF_INET
        sock = socket.socket(family)
        try:
            if not self.uds:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(self.uds or (self.host, self.port))
        except OSError:
            sock.close()
            raise
        return sock

    def url(self, port: int) -> str:
        """port: the one it has got."""
        if self.uds:
            return f"unix:{self.uds}"
        return f"http{'s' if self.tls else ''}://{host_port(self.host, port)}"


def listener_of(args: argparse.Namespace) -> Listener:
    """Raises ValueError, OSError for certificates that cannot be used."""
    if args.port is None and not args.uds:
        raise ValueError("--port or --uds is required")
    if args.ssl_keyfile and not args.ssl_certfile:
        raise ValueError("--ssl-keyfile needs --ssl-certfile")
    return Listener(args.host, args.port or 0, args.uds or "", _tls(args) if args.ssl_certfile else None)


def _tls(args: argparse.Namespace) -> ssl.SSLContext:
    """As uvicorn makes it. Raises ValueError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(args.ssl_certfile, args.ssl_keyfile)
        context.verify_mode = ssl.VerifyMode(args.ssl_cert_reqs)
        if args.ssl_ca_certs:
            context.load_verify_locations(args.ssl_ca_certs)
    except OSError as error:
        files = ", ".join(filter(None, (args.ssl_certfile, args.ssl_keyfile, args.ssl_ca_certs)))
        raise ValueError(f"{files}: {error.strerror or error}") from None
    return context


def _port(text: str) -> int:
    """An argument's type: uvloop would take larger numbers modulo 65536. Raises ArgumentTypeError."""
    if not (text.isascii() and text.isdigit() and int(text) <= 65535):
        raise argparse.ArgumentTypeError(f"must be a port number from 0 to 65535, not {text!r}")
    return int(text)
