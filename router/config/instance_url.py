"""The URL of a server that runs already -> where it is reached. What is no such URL gets the nearest one that is."""

import re
from dataclasses import replace
from functools import lru_cache
from ipaddress import ip_address
from urllib.parse import SplitResult, urlsplit

from dualmap.router.http.openai_errors import HttpError
from dualmap.router.http.request_target import read_target
from dualmap.scheduler.fleet.endpoint import DEFAULT_PORTS, Endpoint

PORT_FORM = "an instance's URL has the form http://HOST:PORT, the port from 1 to 65535"
FORMS = "an instance's URL has the form http://HOST:PORT, https://HOST:PORT or unix:///PATH"
SCHEMES = (*DEFAULT_PORTS, "unix")
RANKS_FORM = "the ranks of a data-parallel server stand at the end of its URL: http://HOST:PORT@0..7, or @0,2"
MOST_RANKS = 1024  # of one server: beyond that it is a mistake
MOST_SOCKET_BYTES = 107  # of the path of a unix socket on Linux
_NAME = re.compile(r"[a-z0-9_]([a-z0-9_.-]*[a-z0-9_.])?", re.ASCII)
_BARE_IPV6 = re.compile(r"(https?://)(?=[^/]*:[^/]*:)([0-9a-f:.]+?)(:\d{4,5})?(/.*)?", re.IGNORECASE)
_RANKED = re.compile(r"(.+)@([0-9.,-]*)")
_IPV4 = re.compile(r"\d+(\.\d+){3}")
_RANKS = re.compile(r"(\d{1,4})(?:\.\.(\d{1,4}))?", re.ASCII)
_SOCKET_OVER_HTTP = re.compile(r"https?://unix:(/[^:]+)")  # as nginx writes it


@lru_cache(maxsize=8192)
def read_url(url: str) -> Endpoint:
    """With the rank, where the URL names a single one. Raises ValueError. Those that are named are asked for again and
    again, as long as they are watched."""
    server, ranks = split_ranks(url)
    endpoint = _read_server(server)
    return replace(endpoint, rank=ranks[0]) if len(ranks) == 1 else endpoint


def split_ranks(url: str) -> tuple[str, tuple[int, ...]]:
    """The URL of a server, and its ranks that are meant; none where none are named. Raises ValueError."""
    ranked = _RANKED.fullmatch(url)
    if ranked is None or _IPV4.fullmatch(ranked[2]):  # a user at an address
        return url, ()
    ranks: list[int] = []
    for part in ranked[2].split(","):
        span = _RANKS.fullmatch(part)
        if span is None:
            meant = part.replace("-", "..")
            raise ValueError(RANKS_FORM + (f": did you mean {ranked[1]}@{meant}?" if _RANKS.fullmatch(meant) else ""))
        first, last = int(span[1]), int(span[2] or span[1])
        if last < first:
            raise ValueError(f"{RANKS_FORM}, the lower rank first: not {part}")
        ranks.extend(range(first, last + 1))
    if len(set(ranks)) < len(ranks):
        raise ValueError(f"{RANKS_FORM}, each rank once")
    if len(ranks) > MOST_RANKS:
        raise ValueError(f"{RANKS_FORM}, {MOST_RANKS} at most")
    return ranked[1], tuple(ranks)


def _read_server(url: str) -> Endpoint:
    """Raises ValueError."""
    if url != url.strip() or any(ord(character) < ord(" ") for character in url):
        raise ValueError(f"{FORMS}, without spaces around it")
    if socket := _SOCKET_OVER_HTTP.match(url):
        raise ValueError(f"{FORMS}: did you mean unix://{socket[1]}?")
    if bare := _BARE_IPV6.fullmatch(url):
        raise ValueError(f"an IPv6 address stands in brackets: {bare[1]}[{bare[2]}]{bare[3] or ':PORT'}")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:  # its message quotes the URL
        raise ValueError(PORT_FORM) from None
    if parts.username is not None and re.match(r"\d+\.\.|\d+,", parts.hostname or ""):
        raise ValueError(RANKS_FORM)
    if parts.username is not None or parts.password is not None:
        raise ValueError("an instance's URL takes no user and password: they would be dropped (see key_file)")
    if parts.scheme not in SCHEMES or (parts.scheme != "unix" and not parts.hostname):
        raise ValueError(FORMS + _meant(url))
    if parts.query or parts.fragment:
        raise ValueError(f"{FORMS}, with nothing after a `?` or a `#`")
    if parts.scheme == "unix":
        return Endpoint(socket=_socket(parts))
    if port == 0:
        raise ValueError(PORT_FORM)
    host = parts.hostname or ""
    if not is_host(host):
        raise ValueError(f"{FORMS}, and no host is called {host!r}")
    return Endpoint(host, port or DEFAULT_PORTS[parts.scheme], tls=parts.scheme == "https", prefix=_prefix(parts))


def is_host(name: str) -> bool:
    """Whether a host can be called so."""
    return _NAME.fullmatch(name.lower()) is not None or is_ip(name)


def is_ip(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _meant(url: str) -> str:
    """A question, where there is a nearest URL."""
    scheme, separator, rest = url.rpartition("://")
    if url.startswith("/"):
        return f": did you mean unix://{url}?"
    if separator and rest and scheme.isalpha():
        return f": did you mean http://{rest}?"
    return f": did you mean http://{url}?" if re.fullmatch(r"[\w.\[\]:-]+(/\S*)?", url) and ":" in url else ""


def _socket(parts: SplitResult) -> str:
    path = parts.netloc + parts.path
    if parts.netloc or not path.startswith("/") or path.endswith("/"):
        raise ValueError(f"the path of a socket is absolute: unix:///{path.strip('/') or 'run/vllm.sock'}")
    if len(path.encode()) > MOST_SOCKET_BYTES:
        raise ValueError(f"the path of a socket has {MOST_SOCKET_BYTES} bytes at most")
    return path


def _prefix(parts: SplitResult) -> str:
    read = read_target(parts.path.encode() or b"/", "GET")
    if isinstance(read, HttpError):
        raise ValueError("the path in an instance's URL is plain, or encoded once: http://HOST:PORT/prefix")
    prefix = read.target.decode().rstrip("/")
    above, _, last = prefix.rpartition("/")
    if last == "v1":
        server = f"{parts.scheme}://{parts.netloc}{above}"
        raise ValueError(f"an instance's URL is its server's, without /v1: did you mean {server}?")
    return prefix
