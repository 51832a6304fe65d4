import threading
import urllib.request
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from dualmap.router.cli.admin_call import AdminCallError, admin_call
from dualmap.router.cli.no_proxy import reach_this_machine_directly

DEAD = "http://127.0.0.1:9"  # discard: nobody listens


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, None),
        ({"NO_PROXY": "corp.example"}, None),
        ({"HTTP_PROXY": DEAD}, "localhost,127.0.0.1,::1"),
        ({"https_proxy": DEAD, "no_proxy": "corp.example, localhost"}, "corp.example,localhost,127.0.0.1,::1"),
        ({"ALL_PROXY": DEAD, "no_proxy": "a", "NO_PROXY": "b"}, "a,b,localhost,127.0.0.1,::1"),
    ],
)
def test_this_machine_is_added_to_what_is_reached_without_a_proxy(before, after):
    environment = dict(before)
    reach_this_machine_directly(environment)
    assert environment == (before if after is None else {**before, "no_proxy": after, "NO_PROXY": after})


class Answer(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server_port():
    server = HTTPServer(("127.0.0.1", 0), Answer)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server.server_port
    server.shutdown()
    server.server_close()
    thread.join()


def test_an_admin_port_of_this_machine_is_asked_directly_and_another_over_the_proxy(monkeypatch, server_port):
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, DEAD)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    for host in ("127.0.0.1", "localhost"):
        assert admin_call(f"http://{host}:{server_port}", "/admin/status") == {}
    with pytest.raises(OSError, match="refused"):
        urllib.request.build_opener().open(f"http://127.0.0.1:{server_port}", timeout=5)
    with pytest.raises(AdminCallError, match="Connection refused"):
        admin_call("http://192.0.2.1:8081", "/admin/status")
