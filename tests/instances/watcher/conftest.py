"""A server that answers as it is told, and a Watcher with Fleet beside it, in this process."""

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from dualmap.instances.spec import InstanceSpec
from dualmap.instances.watcher.watcher import Watcher
from dualmap.router.fleet.actor import Fleet
from dualmap.scheduler import InstanceCapacity, SchedulerConfig
from dualmap.scheduler.fleet.endpoint import Endpoint
from dualmap.scheduler.fleet.member import Member, MemberState
from dualmap.scheduler.fleet.messages import Beat, FleetState, InstanceReport, ReportAnswer
from tests.conftest import WAIT_S

SAMPLE = (
    "vllm:num_requests_running {running}\nvllm:iteration_tokens_total_count {steps}\n"
    "process_start_time_seconds {start}\n"
)
HANGS_S = 2.0  # longer than whoever asks waits, unless what was asked before a test made the time-outs short
MODELS = json.dumps({"data": [{"id": "m"}]})


class ScriptedServer:
    """statuses: by path, 200 where none is named; None hangs. metrics: text of /metrics, or
    what gives it. bodies, posted: of POSTs, and their heads. loaded: called when an adapter is loaded. asked: how
    often, by path. connections: made so far."""

    def __init__(self) -> None:
        self.statuses: dict[str, int | None] = {}
        self.metrics: str | Callable[[], str] = SAMPLE.format(running=0, steps=1, start=5)
        self.models = MODELS
        self.bodies: list[dict] = []
        self.posted: list[dict[str, str]] = []
        self.loaded: Callable[[], None] = lambda: None
        self.asked: dict[str, int] = {}
        self.connections = 0
        self.closing = threading.Event()
        owner = self

        class Answer(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                owner.connections += 1
                super().setup()

            def do_GET(self) -> None:
                owner.asked[self.path] = owner.asked.get(self.path, 0) + 1
                status = owner.statuses.get(self.path, 200)
                if status is None:
                    owner.closing.wait(HANGS_S)
                    self.close_connection = True
                    return
                body = owner.body(self.path).encode()
                self.send_response(status)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def do_POST(self) -> None:
                owner.bodies.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
                owner.posted.append({name.lower(): value for name, value in self.headers.items()})
                if self.path == "/v1/load_lora_adapter":
                    owner.loaded()
                self.do_GET()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
        self._server.daemon_threads = True
        self.port = self._server.server_port
        self.endpoint = Endpoint("127.0.0.1", self.port)
        self.url = str(self.endpoint)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def body(self, path: str) -> str:
        if path == "/metrics":
            return self.metrics if isinstance(self.metrics, str) else self.metrics()
        return self.models if path == "/v1/models" else "{}"

    def close(self) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class Watch:
    """A Watcher and its Fleet. members: as Fleet heard of them, in order. away: Fleet does not answer."""

    def __init__(self) -> None:
        self.fleet = new_fleet()
        self.members: list[Member] = []
        self.reports: list[InstanceReport] = []
        self.beats: list[Beat] = []
        self.away = False
        self.watcher = Watcher(self)
        self._number = 0

    async def report_many(
        self, reports: tuple[InstanceReport, ...], beats: tuple[Beat, ...]
    ) -> dict[str, ReportAnswer] | None:
        if self.away:
            return None
        self.members += [report.member for report in reports]
        self.reports += reports
        self.beats += beats
        return await self.fleet.report_many(reports, beats)

    async def state(self) -> FleetState | None:
        return None if self.away else await self.fleet.state()

    async def watch(self, *specs: InstanceSpec, known: tuple[Member, ...] = ()) -> None:
        self._number += 1
        await self.watcher.watch(self._number, specs, known)

    async def restart(self, *specs: InstanceSpec, known: tuple[Member, ...] = ()) -> None:
        """As Ray does when the process was killed."""
        await self.watcher.stop()
        self.members.clear()
        self.watcher = Watcher(self)
        await self.watch(*specs, known=known)

    async def heard(self, wanted: Callable[[Member], bool]) -> Member:
        """The first member that is wanted, of those past or to come."""
        await self.until(lambda: any(map(wanted, self.members)))
        return next(member for member in self.members if wanted(member))

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(WAIT_S):
            while not condition():  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    def in_state(self, *states: MemberState) -> list[Member]:
        return [member for member in self.members if member.state in states]


def new_fleet() -> Fleet:
    return Fleet((), {"": SchedulerConfig()})


def spec_of(port: int, instance_id: str = "i", **more: object) -> InstanceSpec:
    return InstanceSpec(instance_id, InstanceCapacity(), endpoint=Endpoint("127.0.0.1", port), **more)


def is_ready(member: Member) -> bool:
    return member.state is MemberState.READY


def is_lost(member: Member) -> bool:
    return member.state is MemberState.LOST


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    server = ScriptedServer()
    yield server
    server.close()


@pytest.fixture
def told() -> Callable[[Callable[[Watch], Awaitable[None]]], None]:
    """Runs a test's coroutine with a Watcher, which is stopped whatever happens."""

    def run(tell: Callable[[Watch], Awaitable[None]]) -> None:
        async def whole() -> None:
            watch = Watch()
            try:
                await tell(watch)
            finally:
                await watch.watcher.stop()

        asyncio.run(whole())

    return run
