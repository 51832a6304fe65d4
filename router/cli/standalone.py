"""The gateway alone, without Ray and its actors: `python -m dualmap.router.cli.standalone --instance URL`.

Its instances are taken to be ready and never change. Benchmarks and tests use it, where the request path
alone is what matters.
"""

import argparse
import asyncio
import signal
import sys
import time

import uvloop

from dualmap.instances.server.model_cards import ModelCardsError, model_cards
from dualmap.instances.server.server_client import get_once
from dualmap.router.access.api_keys import ApiKeysError
from dualmap.router.cli.deployment_flags import add_deployment_flags, overrides
from dualmap.router.config.config import DualMapConfig
from dualmap.router.config.instance_specs import external_endpoint
from dualmap.router.config.load import ConfigFileError, load_config
from dualmap.router.config.pool_settings import ExternalInstance
from dualmap.router.gateway.collect_less import collect_less
from dualmap.router.gateway.gateway import Gateway
from dualmap.router.gateway.pool import Pool
from dualmap.router.journal.writer import open_journal
from dualmap.router.observe.metrics import GatewayMetrics
from dualmap.router.tokens.load_tokenizer import TokenizerError
from dualmap.router.tokens.token_blocks import load_token_blocks
from dualmap.scheduler import Scheduler
from dualmap.scheduler.fleet.endpoint import host_port
from dualmap.scheduler.fleet.member import Member, Membership, MemberState

MODELS_TIMEOUT_S = 5.0


async def serve(config: DualMapConfig) -> None:
    """Until SIGINT or SIGTERM. Raises OSError if it cannot listen."""
    settings = config.gateway
    journal = open_journal(settings.journal, config.scheduler, settings.journal_max_bytes, "standalone")
    gateway = Gateway(
        [Pool("", Scheduler(config.scheduler), journal, config.kv_transfer.made())],
        config.limits,
        GatewayMetrics(),
        block_tokens=config.scheduler.block_tokens,
        gateway_id="standalone",
        admin_token=settings.admin_token(),
        ask_for_usage=settings.ask_for_usage,
        heartbeat_s=settings.heartbeat_s,
        max_continuations=settings.max_continuations,
        continue_by_text=settings.continue_by_text,
        access=settings.access(time.monotonic),
        isolate_tenants=settings.isolates_tenants,
        tls=settings.tls(),
        tokens=load_token_blocks(settings.tokenizer, config.scheduler.block_tokens),
    )
    gateway.service.cors = settings.cors_policy()
    gateway.admission.set_aliases(config.model_aliases)
    if settings.picker is not None:
        gateway.serve_proxies()
    gateway.apply_membership(
        Membership(1, tuple([await _member(config, i) for instance in config.instances for i in instance.members]))
    )
    await gateway.start(settings.host, settings.port, admin_host=settings.admin_host, admin_port=settings.admin_port)
    collect_less()
    print(
        f"listening on http://{host_port(settings.host, gateway.port)}, metrics on port {gateway.admin_port}",
        flush=True,
    )
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await stop.wait()
    await gateway.stop(settings.drain_s)


async def _member(config: DualMapConfig, instance: ExternalInstance) -> Member:
    """Raises ModelCardsError if the instance does not say which models it has."""
    endpoint = external_endpoint(config, instance)
    models = await get_once(endpoint, "/v1/models", MODELS_TIMEOUT_S)
    if models is None:
        raise ModelCardsError(f"{endpoint} does not answer GET /v1/models")
    return Member(
        instance.id,
        1,
        endpoint,
        state=MemberState.READY,
        capacity=instance.capacity,
        model_cards=model_cards(models),
        role=instance.role,
        revision=instance.revision,
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m dualmap.router.cli.standalone")
    add_deployment_flags(parser)
    args = parser.parse_args()
    try:
        config = load_config(args.config, overrides(args))
        uvloop.run(serve(config))
    except (ApiKeysError, ConfigFileError, ModelCardsError, TokenizerError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
