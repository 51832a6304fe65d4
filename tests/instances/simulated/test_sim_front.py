"""What stands before a simulated server's APIs: keys, a path's prefix, TLS, sockets, loading. vLLM 0.32 answered
the same to the requests of the first three tests."""

import http.client
import json
import socket
import ssl
import subprocess
import sys
from pathlib import Path

import pytest
import trustme

from tests.conftest import WAIT_S, await_that
from tests.instances.conftest import SimProcess
from tests.router.certs import write_cert

COMPLETION = {"prompt": "a", "max_tokens": 1}


@pytest.fixture(scope="module")
def guarded():
    process = SimProcess("--api-key", "first", "second", "--root-path", "/llm")
    yield process
    process.clean_up()


@pytest.mark.parametrize(
    "path", ["/v1/models", "/llm/v1/models", "/v1/nothing", "/v1x", "/v2/rerank", "/inference/v1/x"]
)
@pytest.mark.parametrize(
    "sent", [{}, {"authorization": "Bearer third"}, {"authorization": "first"}, {"x-api-key": "first"}]
)
def test_a_guarded_path_wants_a_key_whether_there_is_such_a_path_or_not(guarded, path: str, sent: dict) -> None:
    status, headers, body = guarded.request("GET", path, headers=sent)
    assert (status, body, headers["content-type"]) == (401, b'{"error":"Unauthorized"}', "application/json")
    assert "www-authenticate" not in headers


@pytest.mark.parametrize("key", ["Bearer first", "bearer second"])
def test_each_of_the_keys_will_do(guarded, key: str) -> None:
    sent = {"authorization": key, "content-type": "application/json"}
    assert guarded.request("GET", "/v1/models", headers=sent)[0] == 200
    assert guarded.post("/llm/v1/completions", COMPLETION, sent)[0] == 200
    assert guarded.request("GET", "/v1/nothing", headers=sent)[0] == 404


@pytest.mark.parametrize("path", ["/health", "/metrics", "/version", "/ping", "/load", "/llm/health", "/llm/metrics"])
def test_other_paths_want_no_key(guarded, path: str) -> None:
    assert guarded.request("GET", path)[0] == 200
    assert guarded.post("/tokenize", {"prompt": "a"})[0] == 200


def test_a_prefix_may_be_there_and_need_not(guarded) -> None:
    statuses = {path: guarded.request("GET", path)[0] for path in ("/llmhealth", "/llm", "/llm/", "/other/health")}
    assert set(statuses.values()) == {404}, statuses


def https_status(sim: SimProcess, context: ssl.SSLContext) -> int:
    connection = http.client.HTTPSConnection("127.0.0.1", sim.port, context=context, timeout=WAIT_S)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status
    finally:
        connection.close()


def test_tls_is_spoken_with_those_who_trust_the_certificate(start_sim, tmp_path: Path) -> None:
    authority = trustme.CA()
    write_cert(tmp_path, authority)
    flags = ("--ssl-certfile", str(tmp_path / "cert.pem"), "--ssl-keyfile", str(tmp_path / "key.pem"))
    sim = start_sim(*flags)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    assert https_status(sim, trusting) == 200
    with pytest.raises(ssl.SSLCertVerificationError):
        https_status(sim, ssl.create_default_context())
    with pytest.raises((http.client.HTTPException, ConnectionError)):
        sim.request("GET", "/health")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    strict = start_sim(*flags, "--ssl-ca-certs", str(tmp_path / "ca.pem"), "--ssl-cert-reqs", "2")
    with pytest.raises((ssl.SSLError, ConnectionError, http.client.HTTPException)):
        https_status(strict, trusting)
    authority.issue_cert("client.test").configure_cert(trusting)
    assert https_status(strict, trusting) == 200


def test_a_unix_socket_takes_requests(tmp_path: Path) -> None:
    path = tmp_path / "s"
    command = [sys.executable, "-m", "dualmap.instances.simulated.cli", "--uds", str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == f"listening on unix:{path}\n"
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(WAIT_S)
                client.connect(str(path))
                client.sendall(b"GET /v1/models HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
                answer = b"".join(iter(lambda: client.recv(65536), b""))
            assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
            taken = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S, check=False)
            assert (taken.returncode, taken.stderr.count("\n")) == (1, 1)
            assert taken.stderr.startswith(f"error: cannot listen on {path}: ")
        finally:
            process.terminate()


def test_the_address_of_all_takes_both_families() -> None:
    command = [sys.executable, "-m", "dualmap.instances.simulated.cli", "--port", "0", "--host", "::"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            line = process.stdout.readline()
            assert line.startswith("listening on http://[::]:")
            for host in ("127.0.0.1", "::1"):
                connection = http.client.HTTPConnection(host, int(line.rpartition(":")[2]), timeout=WAIT_S)
                connection.request("GET", "/health")
                assert connection.getresponse().status == 200
                connection.close()
        finally:
            process.terminate()


def test_a_server_that_loads_its_model_answers_503_to_everything(start_sim) -> None:
    sim = start_sim("--load-s", "2", "--api-key", "k")
    for path in ("/health", "/v1/models", "/metrics", "/nothing"):
        status, _, body = sim.request("GET", path)
        assert (status, json.loads(body)["error"]["message"]) == (503, "The model is being loaded.")
    await_that(lambda: sim.request("GET", "/health")[0] == 200, "the model is loaded")
    assert sim.request("GET", "/v1/models")[0] == 401


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--ssl-keyfile", "key.pem"), "--ssl-keyfile needs --ssl-certfile"),
        (("--ssl-certfile", "missing.pem"), "missing.pem: No such file or directory"),
        (("--ssl-certfile", __file__), f"{__file__}: "),
        (("--load-s", "-1"), "--load-s: must be a number above 0, not '-1'"),
        (("--ssl-cert-reqs", "3"), "invalid choice: "),
    ],
)
def test_what_cannot_be_is_told_in_the_last_line(flags: tuple[str, ...], message: str) -> None:
    command = [sys.executable, "-m", "dualmap.instances.simulated.cli", "--port", "0", *flags]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S, check=False)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert message in ended.stderr.splitlines()[-1]
    assert "Traceback" not in ended.stderr
