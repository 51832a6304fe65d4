"""What tests of HTTP share."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest


@pytest.fixture
def deaf_port() -> Iterator[int]:
    """A port where connections neither come about nor are refused: its queue of connections to accept is full."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        port = listener.getsockname()[1]
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
        yield port
