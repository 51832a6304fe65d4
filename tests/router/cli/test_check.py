"""`dualmap check`: a line for a good file, a line for each mistake, and no Ray."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from dualmap.router.cli.main import main
from tests.conftest import WAIT_S

EXAMPLE = Path(__file__).parents[3] / "deploy" / "dualmap.yaml"
TWO = """
simulate: {count: 2}
instances: [http://10.0.0.1:8000, http://10.0.0.2:8000]
gateway: {host: 0.0.0.0}
pools:
  coder:
    simulate: {count: 1, model: coder}
"""


@pytest.fixture
def check(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def run(text: str, *flags: str) -> tuple[int, str, str]:
        (tmp_path / "dualmap.yaml").write_text(text)
        code = main(["check", *flags, "dualmap.yaml"])
        return (code, *capsys.readouterr())

    return run


def test_a_good_file_is_told_in_a_line(check):
    parts = "2 pools, 2 simulated and 2 by URL, coder: 1 simulated, gateway on 0.0.0.0:8080, admin on 127.0.0.1:8081"
    assert check(TWO) == (0, f"dualmap.yaml: good: {parts}\n", "")


@pytest.mark.parametrize(
    ("text", "flags", "said"),
    [
        ("simulate: {cuont: 1}", [], ["dualmap.yaml, line 1: simulate.cuont: unknown key; did you mean count?, not 1"]),
        (
            "simulate: {count: -1}\ngateway: {port: x}",
            [],
            [
                "dualmap.yaml, line 1: simulate.count: Input should be greater than or equal to 0, not -1",
                "dualmap.yaml, line 2: gateway.port: Input should be a valid integer, unable to parse string as an "
                "integer, not 'x'",
            ],
        ),
        (
            "simulate: {count: 1}\nlog_dir: dualmap.yaml/logs",
            [],
            ["dualmap.yaml: log_dir: {here}/dualmap.yaml/logs cannot be written: Not a directory"],
        ),
        (
            "instances: [http://localhost:8000]",
            ["--pick"],
            [
                "dualmap.yaml, line 1: instances.0: gateway.picker: proxies know instances by IP address, not by name:"
                " localhost"
            ],
        ),
        (
            "vllm: {model: m, executable: no-such-vllm}",
            [],
            ["dualmap.yaml: 'no-such-vllm' was found neither beside {python} nor on the PATH: install vLLM"],
        ),
    ],
)
def test_what_is_wrong_is_told_in_a_line_each(check, tmp_path, text, flags, said):
    code, out, err = check(text, *flags)
    assert (code, out) == (1, "")
    for line, start in zip(err.splitlines(), said, strict=True):
        assert line.startswith(start.replace("{here}", str(tmp_path)).replace("{python}", sys.executable))


@pytest.mark.parametrize(
    "text",
    [
        "vllm: {model: m, executable: no-such-vllm}",
        "simulate: {count: 1}\nlog_dir: dualmap.yaml/logs",
        "simulate: {count: 1}\ngateway: {admin_token_file: /run/secrets/token}",
    ],
)
def test_what_another_machine_has_is_not_looked_for_here(check, text):
    assert check(text)[0] == 1
    assert check(text, "--elsewhere")[0] == 0


def test_the_example_is_good(capsys):
    assert main(["check", "--elsewhere", str(EXAMPLE)]) == 0
    assert ": good: 1 pool, 4 simulated, " in capsys.readouterr().out


def test_the_schema_is_printed(capsys):
    assert main(["check", "--schema"]) == 0
    Draft202012Validator.check_schema(json.loads(capsys.readouterr().out))


def test_a_reader_that_has_had_enough_ends_it_quietly():
    command = [sys.executable, "-m", "dualmap", "check", "--schema"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert (process.stderr.read(), process.wait(WAIT_S)) == (b"", 1)


def test_neither_a_good_nor_a_wrong_file_imports_ray(tmp_path):
    (tmp_path / "ray.py").write_text("raise SystemExit('Ray was imported')")
    (tmp_path / "good.yaml").write_text(TWO)
    (tmp_path / "wrong.yaml").write_text("simulate: {count: x}")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from dualmap.router.cli.main import main"
    for arguments in (["check", "good.yaml"], ["check", "wrong.yaml"], ["up", "wrong.yaml"], ["pick", "wrong.yaml"]):
        done = subprocess.run(
            [sys.executable, "-c", f"{code}; sys.exit(main({arguments!r}))"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=WAIT_S,
        )
        assert "Ray was imported" not in done.stderr
        assert done.returncode == (0 if "good.yaml" in arguments else 1 if "check" in arguments else 2)
