"""`make test-vllm` and the like read the folder of their tests alone: what bears their mark stands there."""

from pathlib import Path

import pytest

TESTS = Path(__file__).parent
FOLDERS = {
    "vllm": "tests/vllm",
    "envoy": "tests/router/envoy",
    "browser": "tests/router",
    "clients": "tests/clients",
}


@pytest.mark.parametrize("name", FOLDERS)
def test_a_lane_finds_all_of_its_tests(name: str) -> None:
    root = TESTS.parent
    marked = {path.relative_to(root) for path in TESTS.rglob("test_*.py") if f"pytest.mark.{name}" in path.read_text()}
    marked.discard(Path(__file__).relative_to(root))
    assert marked
    assert all(path.is_relative_to(FOLDERS[name]) for path in marked), marked
    assert f"pytest {FOLDERS[name]} " in (root / "Makefile").read_text()
