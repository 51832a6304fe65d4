"""Messages of a proxy that asks where requests go: each stream of them is answered, or ended with a reason."""

import asyncio
from collections.abc import AsyncIterator

from envoy.service.ext_proc.v3 import external_processor_pb2 as pb
from google.protobuf.message import DecodeError

from dualmap.router.gateway.gateway import Gateway
from dualmap.router.gateway.pool import Pool
from dualmap.router.http.limits import HttpLimits
from dualmap.router.observe.metrics import GatewayMetrics
from dualmap.scheduler import InstanceCapacity, Scheduler, SchedulerConfig
from dualmap.scheduler.fleet.endpoint import Endpoint
from dualmap.scheduler.fleet.member import Member, Membership, MemberState
from tests.fuzz.target import Target

SEPARATOR = b"\xff\xff\xff"  # between messages
_loop = asyncio.new_event_loop()


class _Proxied:
    """A gateway that picks for proxies, of instances that are only names."""

    def __init__(self) -> None:
        self.scheduler = Scheduler(SchedulerConfig())
        limits = HttpLimits(max_body_bytes=2000)
        self.gateway = Gateway([Pool("", self.scheduler)], limits, GatewayMetrics(), block_tokens=512)
        self.gateway.serve_proxies()
        members = tuple(
            Member(i, 1, Endpoint(f"10.0.0.{i}", 80), state=MemberState.READY, capacity=InstanceCapacity())
            for i in ("1", "2")
        )
        self.gateway.apply_membership(Membership(1, members))

    async def answers(self, messages: list[pb.ProcessingRequest]) -> int:
        async def asked() -> AsyncIterator[pb.ProcessingRequest]:
            for message in messages:
                yield message

        picker = self.gateway.front.picker  # type: ignore[attr-defined]
        count = 0
        async for answer in picker.Process(asked(), None):
            answer.SerializeToString()
            count += 1
        return count


_proxied: list[_Proxied] = []


async def _check(messages: list[pb.ProcessingRequest]) -> None:
    if not _proxied:
        _proxied.append(_Proxied())
    proxied = _proxied.pop()
    async with asyncio.timeout(10.0):
        await proxied.answers(messages)
    assert not proxied.gateway.driver.exchanges
    assert not proxied.scheduler.attempts
    _proxied.append(proxied)  # a broken one is used no more


def check(data: bytes) -> None:
    messages = []
    for part in data.split(SEPARATOR):
        try:
            messages.append(pb.ProcessingRequest.FromString(part))
        except DecodeError:  # gRPC ends the stream
            break
    _loop.run_until_complete(_check(messages))


PROXIES = Target("proxies", check)
