"""Real child processes: their actors, their deaths, and what is said of these."""

import os
import signal
import stat
from pathlib import Path

import pytest

from dualmap.router.local.children import Children
from dualmap.router.local.local_reach import LocalReach
from dualmap.router.reach.names import BACKGROUND
from dualmap.router.reach.reach import CallError
from tests.conftest import WAIT_S, await_that

ACTOR = """
import asyncio, os

class Actor:
    def __init__(self, value, reach=None):
        if value == "fails":
            raise ValueError("not that value")
        self.value, self.reach = value, reach

    async def get(self):
        return os.getpid(), self.value

    async def hold(self):
        await asyncio.Event().wait()

    async def other(self, name):
        return await self.reach(name).call("get")

    async def restarted(self):
        return self.reach.was_restarted()
"""
MODULE = "actor_of_a_test"
CLASS = f"{MODULE}:Actor"


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def children(tmp_path, monkeypatch, said):
    (tmp_path / f"{MODULE}.py").write_text(ACTOR)
    path = os.pathsep.join(filter(None, (str(tmp_path), os.environ.get("PYTHONPATH"))))
    monkeypatch.setenv("PYTHONPATH", path)
    children = Children(tmp_path / "logs" / "processes.log", said.append)
    yield children
    children.close()


def get(children: Children, process: str, actor: str = "a") -> tuple[int, object]:
    return children.begin(process, actor, "get").result(WAIT_S)


def test_an_actor_is_called_in_a_process_of_its_own(children):
    children.start("one", [MODULE])
    children.make("one", CLASS, "a", (7,))
    pid, value = get(children, "one")
    assert (pid != os.getpid(), value) == (True, 7)
    assert stat.S_IMODE(Path(children.folder).stat().st_mode) == 0o700


def test_a_killed_process_is_started_again_with_all_its_actors(children, said):
    children.start("one", [MODULE])
    reach = LocalReach(children.folder)
    for number in range(3):
        children.make("one", CLASS, str(number), (number, reach))
    before, _ = get(children, "one", "2")
    assert children.begin("one", "0", "restarted").result(WAIT_S) is False
    held = children.begin("one", "0", "hold")
    os.kill(before, signal.SIGKILL)
    with pytest.raises(CallError) as raised:
        held.result(WAIT_S)
    assert raised.value.cause is None
    await_that(lambda: said, "that it is started again is said")
    found = [get(children, "one", str(number)) for number in range(3)]
    assert [value for _, value in found] == [0, 1, 2]
    assert {pid for pid, _ in found} - {before}
    assert children.begin("one", "0", "restarted").result(WAIT_S) is True
    assert said == ["one ended (signal 9) and is started again"]


def test_what_is_asked_of_the_terminals_processes_is_not_asked_of_children(children):
    children.start("one", [MODULE])
    children.make("one", CLASS, "a", (1,))
    pid, _ = get(children, "one")
    assert os.getpgid(pid) == pid
    for number in (signal.SIGINT, signal.SIGHUP):
        os.kill(pid, number)
    assert get(children, "one") == (pid, 1)


def test_an_actor_that_cannot_be_made_says_why(children, said):
    children.start("one", [MODULE])
    children.make("one", CLASS, "a", ("fails",))
    with pytest.raises(CallError, match="not that value") as raised:
        get(children, "one")
    assert raised.value.cause is None
    assert said == ["a cannot be started: ValueError: not that value"]
    children.make("one", CLASS, "b", (2,))
    assert get(children, "one", "b")[1] == 2


def test_actors_find_each_other_within_their_process_and_across(children):
    reach = LocalReach(children.folder)
    for process, actor in ((BACKGROUND, "a"), (BACKGROUND, "b"), ("one", "c")):
        children.start(process, [MODULE])
        children.make(process, CLASS, actor, (actor, reach))
    background = get(children, BACKGROUND)
    get(children, BACKGROUND, "b")
    assert children.begin(BACKGROUND, "b", "other", "a").result(WAIT_S) == background
    assert children.begin("one", "c", "other", "a").result(WAIT_S) == background
    with pytest.raises(CallError, match="no actor 'nobody'"):
        children.begin("one", "c", "other", "nobody").result(WAIT_S)


def test_a_call_that_takes_too_long_is_given_up(children):
    children.start("one", [MODULE])
    children.make("one", CLASS, "a", (1,))
    with pytest.raises(CallError, match="no answer within"):
        children.begin("one", "a", "hold").result(0.01)


def test_who_is_ended_is_gone_and_is_not_started_again(children, said):
    children.start("one", [MODULE])
    children.make("one", CLASS, "a", (1,))
    pid, _ = get(children, "one")
    held = children.begin("one", "a", "hold")
    children.end("one")
    with pytest.raises(CallError):
        held.result(WAIT_S)
    assert not Path(f"/proc/{pid}").exists()
    with pytest.raises(CallError, match="ended"):
        children.begin("one", "a", "get")
    assert said == []


def test_nothing_is_left_in_the_end(children):
    children.start("one", [MODULE])
    children.make("one", CLASS, "a", (1,))
    pid, _ = get(children, "one")
    children.close()
    assert not Path(f"/proc/{pid}").exists()
    assert not Path(children.folder).exists()


def test_a_folder_in_which_no_socket_fits_is_an_error(children):
    with pytest.raises(OSError, match="path too long"):
        children.start("x" * 100, [MODULE])
