"""running.py, and how commands find the deployment that is meant."""

import argparse
import json
import tempfile
from contextlib import ExitStack

import pytest

from dualmap.router.cli.admin_call import DEFAULT_ADMIN, AdminCallError, add_admin_argument, find_admin
from dualmap.router.deployment import running as module
from dualmap.router.deployment.actors import ClusterError
from dualmap.router.deployment.running import PREFIX, home, reached_at, running
from dualmap.router.local.owned_folder import OWNED


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


@pytest.fixture
def run():
    with ExitStack() as stack:

        def run(name: str, admin: str = "") -> None:
            stack.enter_context(home(name)).tell(admin=admin)

        yield run


def found(*flags: str) -> str:
    parser = argparse.ArgumentParser()
    add_admin_argument(parser)
    return find_admin(parser.parse_args(flags))


def refused(*flags: str) -> str:
    with pytest.raises(AdminCallError) as error:
        found(*flags)
    return str(error.value)


def test_where_one_runs_it_is_meant(run):
    assert found() == DEFAULT_ADMIN
    run("", "http://127.0.0.1:7001")
    assert found() == "http://127.0.0.1:7001"
    assert found("--admin", "http://h:1") == "http://h:1"


def test_where_several_run_one_has_to_be_named_and_all_are_listed(run):
    run("chat", "http://127.0.0.1:7001")
    run("code", "http://127.0.0.1:7002")
    assert found("--deployment", "code") == "http://127.0.0.1:7002"
    for flags in ((), ("--deployment", "other")):
        line = refused(*flags)
        assert "--deployment" in line
        assert "chat: http://127.0.0.1:7001" in line
        assert "code: http://127.0.0.1:7002" in line
    assert "no deployment named other runs" in refused("--deployment", "other")


def test_one_whose_gateway_does_not_serve_yet_is_no_address(run):
    run("chat")
    assert "chat: its gateway does not serve yet" in refused()


def test_a_name_is_that_of_one_deployment(run, monkeypatch):
    run("chat")
    monkeypatch.setattr(module.os, "getpid", lambda: 0)
    with pytest.raises(ClusterError, match="a deployment named chat runs on this machine already"):
        run("chat")
    run("")
    run("")
    assert [one.name for one in running()] == ["", "", "chat"]


def test_what_is_no_record_is_no_deployment(run, folder):
    run("chat")
    (record,) = folder.glob(f"{PREFIX}*/deployment.json")
    record.write_text(json.dumps({"name": "chat", "of": "another version"}))
    assert running() == []


def test_whatever_a_killed_one_left_goes_when_the_next_begins(run, folder):
    for left in ("dualmap-ray-1", "dualmap-local-2", "dualmap-up-3"):
        (folder / left / "below").mkdir(parents=True)
        (folder / left / OWNED).touch()
    run("")
    assert len(list(folder.iterdir())) == 1


def test_an_address_for_all_is_this_machines_own(run):
    assert [reached_at(host) for host in ("0.0.0.0", "::", "10.0.0.1")] == ["127.0.0.1", "::1", "10.0.0.1"]
