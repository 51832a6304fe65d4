"""The overhead benchmark: its load against its backends, and its table. What it measures is not checked here."""

import json
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from dualmap.instances.server.start import free_ports
from dualmap.loadtest.overhead import __main__ as overhead
from dualmap.loadtest.overhead.load import Load, Loader
from dualmap.loadtest.overhead.measured_proxy import MeasuredProxy, ProxyError, backends, gateway, nginx, why_no_nginx
from dualmap.loadtest.overhead.peers import PEERS, RECOMMENDED, peer, why_no_peers
from tests.conftest import WAIT_S

ROOT = Path(__file__).parents[3]


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


NAMES = ("dualmap gateway", "nginx 1.22", "vllm-router 0.1", "smg 1.13")


def medians(*us: float, names: tuple[str, ...] = NAMES) -> dict[str, dict[str, float]]:
    """Of as many proxies as there are values, each the same in all columns."""
    return {name: dict.fromkeys(overhead.LOADS, value) for name, value in zip(names, us, strict=False)}


def test_the_table_begins_with_the_ratios_to_the_cheapest_router_of_each_column_and_to_nginx():
    found = medians(20.0, 5.0, 50.0, 100.0)
    found["smg 1.13"]["8 KB"] = 40.0
    lines = overhead.markdown(found, 3).splitlines()
    assert "medians of 3 rounds" in lines[0]
    assert lines[-6:] == [
        "| dualmap / cheapest Rust router | 0.40 | 0.50 | 0.40 | 0.40 | 0.40 |",
        "| dualmap / nginx | 4.00 | 4.00 | 4.00 | 4.00 | 4.00 |",
        "| dualmap gateway, µs | 20.0 | 20.0 | 20.0 | 20.0 | 20.0 |",
        "| nginx 1.22, µs | 5.0 | 5.0 | 5.0 | 5.0 | 5.0 |",
        "| vllm-router 0.1, µs | 50.0 | 50.0 | 50.0 | 50.0 | 50.0 |",
        "| smg 1.13, µs | 100.0 | 40.0 | 100.0 | 100.0 | 100.0 |",
    ]


def test_there_are_ratios_only_to_what_was_measured():
    assert overhead.ratios(medians(1.0)) == {}
    assert "dualmap /" not in overhead.markdown(medians(1.0), 1)


def test_a_line_of_the_history_has_the_columns_of_its_page():
    page = (ROOT / "docs" / "results" / "overhead-history.md").read_text().splitlines()
    (heading,) = [line for line in page if line.startswith("| date")]
    line = overhead.history_line(medians(20.0, 5.0))
    assert line.count("|") == heading.count("|")
    assert line.endswith("| - | - | - | - | - | 4.00 | 4.00 | 4.00 | 4.00 | 4.00 |")


def test_requests_are_sent_at_the_rate_that_was_asked_for():
    loader = Loader(Load(requests=4, per_s=200.0))
    dues = [loader.due(100.0) for _ in range(3) if loader.next_request()]
    assert [due - dues[0] for due in dues] == pytest.approx([0, 0.005, 0.010])


@pytest.mark.parametrize("name", PEERS)
def test_routers_that_others_wrote_pass_the_load_on(tmp_path, name):
    environment = ROOT / ".venv-peers"
    if reason := why_no_peers(environment):
        pytest.skip(reason)
    ports = free_ports("127.0.0.1", 2)
    with backends(ports, tmp_path), peer(name, environment, ports, tmp_path, RECOMMENDED[name]) as proxy:
        assert proxy.name.startswith(f"{name} ")
        assert run_load(Load(proxy.port, 2, 20, 8192))["ok"] == 20
        assert run_load(Load(proxy.port, 2, 4, 200, 3))["ok"] == 4
