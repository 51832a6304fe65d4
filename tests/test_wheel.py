"""The wheel as a pip user has it: built from what the image is built from, installed without any tool of development,
and used in a folder that has a `router` and a `scheduler` of its own."""

import shutil
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

from tests.conftest import WAIT_S, ProcessFamily, await_that

pytestmark = pytest.mark.ray

ROOT = Path(__file__).parent.parent
DOCKERFILE = ROOT / "deploy" / "docker" / "gateway.Dockerfile"
INSTALL_S = 800.0
PIP = ("-m", "pip", "--quiet", "--disable-pip-version-check")
INSTALL = (*PIP, "install")
SIMULATE = ("simulate", "synth:hot", "--limit", "80", "--warmup", "20", "--qps", "2", "--policy", "dualmap,round_robin")


def run(python: Path | str, *arguments: str, cwd: Path, within_s: float = INSTALL_S) -> subprocess.CompletedProcess:
    """Without our source tree on its path. Wheels are pure Python here (test_compiled.py has the other ones): one does
    for all versions of it."""
    family = ProcessFamily()
    environment = {
        name: value for name, value in family.environment.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")
    }
    environment["DUALMAP_COMPILE"] = "0"
    try:
        done = subprocess.run(
            [str(python), *arguments], cwd=cwd, env=environment, capture_output=True, text=True, timeout=within_s
        )
        await_that(lambda: not family.living(), "every process has ended")
    finally:
        family.kill()
    return done


def check(done: subprocess.CompletedProcess) -> str:
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from the files that gateway.Dockerfile copies."""
    folder = tmp_path_factory.mktemp("wheel")
    if run(sys.executable, *PIP, "download", "--no-deps", "--dest", "index", "setuptools>=77", cwd=folder).returncode:
        pytest.skip("no package index can be reached")
    source = folder / "source"
    source.mkdir()
    for line in DOCKERFILE.read_text().splitlines():
        match line.split():
            case ["COPY", *names, "./"]:
                for name in names:
                    shutil.copy(ROOT / name, source)
            case ["COPY", name, target] if name == target:
                shutil.copytree(ROOT / name, source / target, symlinks=True)
    check(run(sys.executable, *PIP, "wheel", "--no-deps", "--wheel-dir", str(folder), str(source), cwd=folder))
    (built,) = folder.glob("dualmap-*.whl")
    return built


def environment(python: Path | str, folder: Path) -> Path:
    """The interpreter of an empty one."""
    check(run(python, "-m", "venv", str(folder), cwd=folder.parent))
    return folder / "bin" / "python"


@pytest.fixture(scope="module")
def empty(tmp_path_factory) -> Path:
    return environment(sys.executable, tmp_path_factory.mktemp("empty") / "venv")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder of somebody who has packages with the names of our folders."""
    for name in ("router", "scheduler", "instances", "loadtest"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise RuntimeError('this is not DualMap')\n")
    return tmp_path


def contents(python: Path) -> set[str]:
    """site-packages/NAME and bin/NAME."""
    found = [*python.parent.glob("*"), *python.parents[1].glob("lib/python3*/site-packages/*")]
    return {f"{path.parent.name}/{path.name}" for path in found}


def test_the_wheel_has_the_code_the_page_and_the_deploy_files_and_nothing_of_the_tests(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    tops = {name.partition("/")[0] for name in names}
    assert tops == {"dualmap", f"{wheel.name.removesuffix('-py3-none-any.whl')}.dist-info"}
    expected = {
        f"dualmap/{path.relative_to(ROOT)}"
        for part in ("scheduler", "router", "instances", "loadtest")
        for path in (ROOT / part).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    for kind in ("envoy", "grafana", "helm", "kubernetes", "prometheus"):
        expected |= {
            f"dualmap/{path.relative_to(ROOT)}" for path in (ROOT / "deploy" / kind).rglob("*") if path.is_file()
        }
    expected |= {f"dualmap/{name}" for name in ("__init__.py", "__main__.py", "py.typed", "deploy/dualmap.yaml")}
    assert {name for name in names if name.startswith("dualmap/")} == expected


def test_an_installation_adds_dualmap_alone(wheel, empty):
    before = contents(empty)
    check(run(empty, *INSTALL, "--no-deps", str(wheel), cwd=wheel.parent))
    added = contents(empty) - before
    info = f"{wheel.name.removesuffix('-py3-none-any.whl')}.dist-info"
    assert added == {"bin/dualmap", "site-packages/dualmap", f"site-packages/{info}"}


@pytest.mark.slow
@pytest.mark.xdist_group("other versions of Python")  # they start no cluster
@pytest.mark.parametrize("version", [pytest.param("3.12", marks=pytest.mark.release), "3.13"])
def test_simulate_runs_on_other_versions_of_python(wheel, version: str, tmp_path, project):
    python = environment(interpreter(version), tmp_path / "venv")
    check(run(python, *INSTALL, "--no-deps", str(wheel), cwd=tmp_path))
    check(run(python, *INSTALL, "--no-compile", *needed_without_ray(wheel), cwd=tmp_path))
    out = check(run(python.with_name("dualmap"), *SIMULATE, cwd=project, within_s=2 * WAIT_S))
    assert {line.split()[0] for line in out.splitlines()} == {"policy", "dualmap", "round_robin"}


def needed_without_ray(wheel: Path) -> list[str]:
    """What pip would install beside it, without extras and without the largest, of which simulations have no need."""
    name = wheel.name.removesuffix("-py3-none-any.whl")
    metadata = Parser().parsestr(zipfile.ZipFile(wheel).read(f"{name}.dist-info/METADATA").decode())
    needed = metadata.get_all("Requires-Dist", [])
    return [package for package in needed if "extra ==" not in package and not package.startswith("ray")]


def interpreter(version: str) -> Path:
    """Skips the test where there is none that runs."""
    found = [*Path.home().glob(f".pyenv/versions/{version}.*/bin/python"), shutil.which(f"python{version}")]
    for path in filter(None, found):
        if subprocess.run([path, "-c", "import venv, ensurepip"], capture_output=True, timeout=WAIT_S).returncode == 0:
            return Path(path)
    return pytest.skip(f"there is no Python {version} here")


@pytest.mark.slow
def test_demo_runs_with_the_packages_that_it_asks_for(wheel, empty, project):
    dualmap = empty.with_name("dualmap")
    check(run(empty, *INSTALL, str(wheel), cwd=project))
    refused = run(dualmap, "demo", cwd=project, within_s=WAIT_S)
    assert refused.returncode == 2
    assert refused.stderr == "error: a replay needs more packages: pip install 'dualmap[loadtest]'\n"
    check(run(empty, *INSTALL, f"dualmap[loadtest] @ file://{wheel}", cwd=project))
    out = check(run(dualmap, "demo", "--seconds", "3", "--out", "runs/demo", cwd=project, within_s=4 * WAIT_S))
    assert "report: runs/demo/report.html" in out
    assert (project / "runs" / "demo" / "report.html").stat().st_size > 10_000
    assert check(run(dualmap, "files", "helm", "--out", "chart", cwd=project, within_s=WAIT_S))
    assert (project / "chart" / "dualmap" / "Chart.yaml").is_file()
    assert check(run(dualmap, "--version", cwd=project, within_s=WAIT_S)).endswith("(pure Python)\n")
