"""The overhead benchmark: its load against its backends, and its table. What it measures is not checked here."""

import json
import subprocess
import sys

import msgspec
import pytest

from dualmap.instances.server.start import free_ports
from dualmap.loadtest.overhead import __main__ as overhead
from dualmap.loadtest.overhead.load import Load
from dualmap.loadtest.overhead.measured_proxy import MeasuredProxy, ProxyError, backends, gateway, nginx, why_no_nginx
from tests.conftest import WAIT_S


def run_load(load: Load) -> dict:
    command = [sys.executable, "-m", "dualmap.loadtest.overhead.load", msgspec.json.encode(load).decode()]
    return json.loads(subprocess.run(command, capture_output=True, check=True, timeout=WAIT_S).stdout)


@pytest.mark.parametrize("stream_chunks", [0, 3])
@pytest.mark.parametrize("prompt_bytes", [200, 49_152])
def test_the_load_gets_an_answer_to_each_request(tmp_path, prompt_bytes, stream_chunks):
    (port,) = free_ports("127.0.0.1", 1)
    with backends([port], tmp_path):
        result = run_load(Load(port, 4, 30, prompt_bytes, stream_chunks))
    assert result == {"ok": 30, "failed": 0, "first_failure": ""}


def test_nginx_passes_the_load_on_and_its_cpu_is_counted(tmp_path):
    reason = why_no_nginx()
    if reason:
        pytest.skip(reason)
    ports = free_ports("127.0.0.1", 2)
    with backends(ports, tmp_path), nginx(ports, tmp_path) as proxy:
        before_s = proxy.cpu_s()
        assert run_load(Load(proxy.port, 4, 200, 8192))["ok"] == 200
        assert run_load(Load(proxy.port, 4, 4, 200, 3))["ok"] == 4
        assert proxy.cpu_s() > before_s


def test_the_cpu_of_a_proxys_children_is_counted():
    """The parent does nothing but wait for a child that works and then waits for its input to end."""
    work = "import time\nwhile time.process_time() < 0.3: pass\nprint(1, flush=True)\ninput()"
    program = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {work!r}])"
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        try:
            parent.stdout.readline()
            assert MeasuredProxy("p", 0, parent.pid).cpu_s() > 0.3
        finally:
            parent.communicate(b"\n")


def test_a_gateway_that_does_not_start_is_named_with_what_it_said(tmp_path):
    template = "{python} -c 'raise SystemExit(\"no such thing\")' {port} {admin_port} {instances}"
    with pytest.raises(ProxyError, match="no such thing"), gateway(template, free_ports("127.0.0.1", 1), tmp_path):
        pass


def test_the_table_shows_medians_and_their_ratio():
    columns = (*overhead.PROMPTS, overhead.CHUNK)
    rounds = {
        "dualmap gateway": {column: [30.0, 10.0, 20.0] for column in columns},
        "nginx 1.0": {column: [5.0, 5.0, 100.0] for column in columns},
    }
    lines = overhead.markdown(rounds).splitlines()
    assert lines[-3:] == [
        "| dualmap gateway | 20.0 | 20.0 | 20.0 | 20.0 |",
        "| nginx 1.0 | 5.0 | 5.0 | 5.0 | 5.0 |",
        "| ratio | 4.00 | 4.00 | 4.00 | 4.00 |",
    ]
    assert "medians of 3 rounds" in lines[0]


def test_without_nginx_there_is_no_ratio():
    rounds = {"dualmap gateway": {column: [1.0] for column in (*overhead.PROMPTS, overhead.CHUNK)}}
    assert "ratio" not in overhead.markdown(rounds)
