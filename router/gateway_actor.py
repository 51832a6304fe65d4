"""The gateway's process: a Ray actor that listens on its own sockets. Requests and tokens never pass through Ray."""

import asyncio
import logging
import os
import time

from ray.exceptions import RayError

from router.actor_by_name import REBALANCER, actor_by_name
from router.collect_less import collect_less
from router.config import DualMapConfig
from router.fleet_client import FleetClient
from router.fleet_state import GatewayReport
from router.gateway import Gateway
from router.journal import open_journal, path_for
from router.metrics import GatewayMetrics
from router.token_blocks import load_token_blocks
from scheduler import Scheduler

logger = logging.getLogger(__name__)

SYNC_INTERVAL_S = 0.1  # membership is at most this old; a dead instance's own connections show it sooner
BIND_RETRY_S = 0.2
BIND_TRIES = 25  # a killed predecessor's sockets may take a moment to close


class GatewayActor:
    """Starts listening when it is made, and so again when Ray restarts it."""

    def __init__(self, gateway_id: str, config: DualMapConfig) -> None:
        self._config = config
        self._fleet = FleetClient()
        settings = config.gateway
        path = settings.journal and path_for(settings.journal, gateway_id)
        self._gateway = Gateway(
            Scheduler(config.scheduler),
            config.limits,
            GatewayMetrics(),
            block_tokens=config.scheduler.block_tokens,
            gateway_id=gateway_id,
            admin_token=settings.admin_token(),
            ask_for_usage=settings.ask_for_usage,
            tokens=load_token_blocks(settings.tokenizer, config.scheduler.block_tokens),
            journal=open_journal(path, config.scheduler, settings.journal_max_bytes, gateway_id),
        )
        self._epoch = 0
        self._signals = 0  # number of the last signals heard
        self._informed = asyncio.Event()
        self._started = asyncio.create_task(self._start())
        self._following = asyncio.create_task(self._follow())

    async def ready(self) -> tuple[int, int, int]:
        """Port, admin port and process id, once it serves. Raises OSError if it cannot listen."""
        await self._started
        await self._informed.wait()
        return self._gateway.port, self._gateway.admin_port, os.getpid()

    async def stop(self) -> None:
        """Take no more requests and let the running ones end, for as long as configured."""
        self._following.cancel()
        await self._gateway.stop(self._config.gateway.drain_s)

    async def _start(self) -> None:
        settings = self._config.gateway
        for tries_left in reversed(range(BIND_TRIES)):
            try:
                await self._gateway.start(
                    settings.host,
                    settings.port,
                    reuse_port=settings.count > 1,
                    admin_host=settings.admin_host,
                    admin_port=settings.admin_port,
                )
                collect_less()
                return
            except OSError:
                if not tries_left:
                    raise
                await asyncio.sleep(BIND_RETRY_S)

    async def _follow(self) -> None:
        """Keep up with membership and signals, and have moves planned while an instance is hot."""
        await self._started
        while True:
            try:
                await self._sync()
                await self._rebalance()
            except Exception:  # a fault here must not leave the gateway with the members of this moment for good
                logger.exception("the background loop goes on after an error")
            await asyncio.sleep(SYNC_INTERVAL_S)

    async def _sync(self) -> None:
        gateway = self._gateway
        loads = gateway.scheduler.own_loads(time.monotonic())
        news = await self._fleet.sync(GatewayReport(gateway.gateway_id, self._epoch, self._signals, loads=loads))
        if news is None:
            return
        if news.membership is not None:
            self._epoch = news.membership.epoch
            gateway.apply_membership(news.membership)
            self._informed.set()
        if news.signals is not None:
            self._signals = news.signals.number
            gateway.hear(news.signals)

    async def _rebalance(self) -> None:
        snapshot = self._gateway.snapshot()
        if snapshot is None:
            return
        try:
            moves = await actor_by_name(REBALANCER).plan.remote(snapshot, self._config.scheduler)
        except (RayError, ValueError):
            return  # what waits stays where it is until the planner is back
        self._gateway.propose(moves, snapshot.version)
