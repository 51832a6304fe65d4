"""What gateways hear of a Fleet on another host: what it answers, or why nobody does."""

import asyncio
import socket
import sys
from pathlib import Path

import pytest

from dualmap.router.local import link as module
from dualmap.router.local.children import Children
from dualmap.router.local.link import PROGRAM, Link, unreachable
from dualmap.router.local.local_reach import LocalReach
from dualmap.router.reach.form import OWN_FORM
from dualmap.router.reach.host import HELLO
from dualmap.router.reach.names import BACKGROUND, FLEET
from dualmap.router.reach.packed import packed, packed_call, unpacked
from dualmap.router.reach.ray_reach import DONE, FAILED, REFUSED
from dualmap.router.reach.reach import CallError, RefusedFormError
from tests.conftest import WAIT_S, await_that


class Background:
    """Ray's actor, as the link calls it: heard has what was."""

    def __init__(self, outcome: tuple[str, bytes] | Exception) -> None:
        self._outcome = outcome
        self.heard: list[tuple[str, bytes]] = []

    async def call(self, method: str, form: str, program: str, pickled: bytes) -> tuple[str, bytes]:
        assert method == "call"
        self.heard.append((form, pickled))
        if isinstance(self._outcome, Exception):
            raise self._outcome
        return self._outcome


def linked(outcome: tuple[str, bytes] | Exception) -> tuple[Link, Background]:
    link = Link("head:10001", "dualmap")
    link._background = background = Background(outcome)
    return link, background


CALL = packed_call(FLEET, "state", ())


async def test_a_call_is_passed_on_as_it_is_and_its_answer_comes_back():
    link, background = linked((DONE, packed("news")))
    assert unpacked(*await link.answer(CALL)) == "news"
    assert background.heard == [(OWN_FORM, CALL)]


async def test_what_a_method_raised_is_the_cause():
    link, _ = linked((FAILED, packed(KeyError("no such thing"))))
    with pytest.raises(CallError, match="no such thing") as raised:
        unpacked(*await link.answer(CALL))
    assert isinstance(raised.value.cause, KeyError)


async def test_a_fleet_of_another_version_is_told_from_one_that_is_away():
    link, _ = linked((REFUSED, b"make both of one form"))
    with pytest.raises(RefusedFormError, match="make both of one form"):
        unpacked(*await link.answer(CALL))


async def test_what_goes_wrong_in_ray_is_said_in_a_line():
    link, _ = linked(RuntimeError("the client is not connected\nstatus = 5"))
    with pytest.raises(CallError, match=r"^head:10001: the client is not connected$") as raised:
        unpacked(*await link.answer(CALL))
    assert raised.value.cause is None


def test_who_does_not_listen_is_told_from_who_does():
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{listening.getsockname()[1]}"
        assert unreachable(address) == "connection refused"
        listening.listen()
        assert unreachable(address) == ""
    assert "not known" in unreachable("no-such-host.invalid:10001")


@pytest.fixture
def children(tmp_path):
    children = Children(tmp_path / "logs" / "processes.log", lambda line: None)
    yield children
    children.close()


def test_without_a_head_calls_fail_at_once_and_say_where_nobody_is(children):
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{nobody.getsockname()[1]}"
        children.start_program(BACKGROUND, PROGRAM, f"ray://{address}", "dualmap")

        def hello() -> str:
            try:
                children.begin(BACKGROUND, "", HELLO).result(WAIT_S)
            except CallError as error:
                return str(error)
            return ""

        await_that(lambda: hello() == f"nobody answers at {address}: connection refused", "it is said")

        async def call() -> None:
            await LocalReach(children.folder)(FLEET).call("state")

        with pytest.raises(CallError, match="nobody answers"):
            asyncio.run(call())


def test_the_process_has_no_ray_before_somebody_listens():
    source = Path(module.__file__).read_text()
    top = source.partition("\nclass ")[0]
    assert "import ray" not in top
    assert "ray_reach" not in top
    assert sys.modules.get("dualmap.router.local.link") is module
