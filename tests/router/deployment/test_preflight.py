"""What a deployment needs of this machine is looked at before Ray starts, and told in a line."""

import socket
import subprocess
import sys

import pytest

from dualmap.router.cli.main import main
from dualmap.router.config.load import load_config
from dualmap.router.deployment import preflight, ray_runtime
from dualmap.router.deployment.actors import ClusterError, told
from dualmap.router.deployment.cluster import Cluster
from dualmap.router.deployment.preflight import cannot_start, missing_here
from tests.conftest import WAIT_S
from tests.deployment import free_port

ONE = {"simulate": {"count": 1}}
NO_FOLDER = "cannot be written: Not a directory"


@pytest.fixture
def file(tmp_path, monkeypatch):
    """No folder can be made below it, not even by root."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "file"
    path.touch()
    return path


@pytest.mark.parametrize(
    ("values", "environment", "said"),
    [
        ({"log_dir": "{file}/logs"}, {}, "log_dir: {file}/logs " + NO_FOLDER),
        ({"gateway": {"journal": "{file}/j.jsonl"}}, {}, "gateway.journal: {file} " + NO_FOLDER),
        ({"gateway": {"prometheus_targets": "{file}/a/t"}}, {}, "gateway.prometheus_targets: {file}/a " + NO_FOLDER),
        ({}, {"RAY_TMPDIR": "{file}"}, "Ray's sessions: {file} " + NO_FOLDER),
        ({"vllm": {"model": "m", "executable": "no-such"}}, {}, "'no-such' was found neither beside"),
    ],
)
def test_what_is_missing_is_named(file, monkeypatch, values, environment, said):
    for name, value in environment.items():
        monkeypatch.setenv(name, value.format(file=file))
    written = {key: _filled(value, file) for key, value in values.items()}
    (line,) = missing_here(load_config(None, ONE | written))
    assert line.startswith(said.format(file=file))


def test_a_link_that_leads_nowhere_is_no_folder_to_be_made(file):
    link = file.with_name("link")
    link.symlink_to("nowhere")
    (line,) = missing_here(load_config(None, ONE | {"log_dir": str(link / "logs")}))
    assert line == f"log_dir: {link}/logs cannot be written: No such file or directory"


def _filled(value, file):
    return value.format(file=file) if isinstance(value, str) else {k: v.format(file=file) for k, v in value.items()}


@pytest.mark.parametrize(
    ("values", "environment"),
    [
        ({}, {"HOME": "{file}"}),
        ({"ray_address": "auto"}, {"HOME": "{file}", "RAY_TMPDIR": "{file}"}),
        ({"log_dir": "a/folder/to/be/made"}, {}),
    ],
)
def test_what_is_not_needed_is_not_missed_and_nothing_is_made(file, monkeypatch, values, environment):
    for name, value in environment.items():
        monkeypatch.setenv(name, value.format(file=file))
    assert list(missing_here(load_config(None, ONE | values))) == []
    assert list(file.parent.iterdir()) == [file]


def test_without_ray_nothing_of_ray_is_missed(file, monkeypatch):
    monkeypatch.setenv("RAY_TMPDIR", str(file))
    running = {"instances": ["http://127.0.0.1:1"]}
    assert list(missing_here(load_config(None, running))) == []
    assert len(list(missing_here(load_config(None, running | {"runtime": "ray"})))) == 1


@pytest.mark.parametrize(
    ("values", "extra"),
    [
        (ONE | {"traces": {}}, "otel"),
        (ONE | {"gateway": {"picker": {}}}, "picker"),
        (ONE | {"gateway": {"tokenizer": "m"}}, "tokenizer"),
        ({"discovery": {"kubernetes": {"label_selector": "a=b"}}}, "kubernetes"),
    ],
)
def test_packages_that_are_not_installed_are_named(file, monkeypatch, values, extra):
    assert list(missing_here(load_config(None, values))) == []
    monkeypatch.setattr(preflight, "find_spec", lambda name: None)
    (line,) = missing_here(load_config(None, values))
    assert line.endswith(f"needs more packages: pip install 'dualmap[{extra}]'")


@pytest.mark.parametrize("host", ["no-such-host.invalid", "é" * 70])
def test_a_host_that_is_not_one_is_a_line(file, host):
    lines = list(cannot_start(load_config(None, ONE | {"gateway": {"host": host, "admin_port": 0}})))
    assert [line.startswith("cannot listen on ") for line in lines] == [True]


@pytest.mark.parametrize("place", range(3))
def test_a_port_that_is_taken_is_named_that_of_a_further_gateway_too(file, place):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        gateway = (
            {"port": port, "admin_port": 0}
            if not place
            else {"port": 0, "admin_port": port - place + 1, "count": place}
        )
        lines = list(cannot_start(load_config(None, ONE | {"gateway": gateway})))
    assert f"cannot listen on 127.0.0.1:{port}: Address already in use" in lines


def test_up_refuses_at_once_what_it_cannot_start_and_imports_no_ray(file):
    (file.parent / "ray.py").write_text("raise SystemExit('Ray was imported')")
    code = f"import sys; sys.path.insert(0, {str(file.parent)!r}); from dualmap.router.cli.main import main"
    ports = ["--port", str(free_port()), "--admin-port", str(free_port())]
    command = [
        sys.executable,
        "-c",
        f"{code}; sys.exit(main())",
        "up",
        "--simulate",
        "1",
        *ports,
        "--journal",
        f"{file}/journal",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"error: gateway.journal: {file} {NO_FOLDER}\n"


def test_rays_time_out_is_one_line(monkeypatch):
    def time_out(**options):
        raise Exception("The current node timed out during startup. This could happen ...\nMore of it.")

    monkeypatch.setattr(ray_runtime.ray, "init", time_out)
    with pytest.raises(ClusterError, match=r"^cannot start or reach Ray: The current node timed out .*\.\.\.$"):
        Cluster(load_config(None, ONE), say=print).start_instances()


@pytest.mark.parametrize(
    ("message", "line"),
    [
        ("a\nb", "a"),
        (
            'ray::A.ready()\nTraceback (most recent call last):\n  File "a.py", line 1\nOSError: no room\n',
            "OSError: no room",
        ),
        ('ray::A()\n  File "a.py", line 1, in a\nPermissionError: no', "PermissionError: no"),
        ("", "RuntimeError"),
    ],
)
def test_a_message_of_ray_is_told_without_its_traceback(message, line):
    assert told(RuntimeError(message)) == line


def test_a_taken_port_ends_the_command_with_1(file, capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert main(["up", "--simulate", "1", "--admin-port", "0", "--port", port]) == 1
    assert capsys.readouterr().err == f"error: cannot listen on 127.0.0.1:{port}: Address already in use\n"


def test_why_a_server_did_not_start_is_told_whole_whatever_its_log_ends_with() -> None:
    why = (
        'vllm-0 did not start: vllm exited with code 1: RuntimeError: no NIXL; the end of a.log:\n  File "b.py"\nwarned'
    )
    assert told(ClusterError(why)) == why
