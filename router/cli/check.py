"""`dualmap check FILE`: everything for which `dualmap up FILE` would refuse to start, without starting anything."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from dualmap.router.cli.pick import picker_overrides
from dualmap.router.config.config import DualMapConfig
from dualmap.router.config.json_schema import json_schema
from dualmap.router.config.load import ConfigFileError, load_config
from dualmap.router.config.pool_settings import PoolSettings
from dualmap.router.deployment.preflight import missing_here
from dualmap.scheduler.fleet.endpoint import host_port
from dualmap.scheduler.role import Role

EXAMPLES = (
    "dualmap check dualmap.yaml",
    "dualmap check --elsewhere deploy/dualmap.yaml   # written here, run on another machine",
    "dualmap check --pick dualmap.yaml",
    "dualmap check --schema > dualmap.schema.json",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    what = parser.add_argument_group("what is checked").add_mutually_exclusive_group(required=True)
    what.add_argument("file", nargs="?", type=Path, metavar="FILE", help="a deployment file")
    what.add_argument(
        "--schema",
        action="store_true",
        help="check nothing, and print the JSON schema of a deployment file for editors",
    )
    how = parser.add_argument_group("how")
    how.add_argument("--pick", action="store_true", help="as `dualmap pick` takes it, not `dualmap up`")
    how.add_argument(
        "--elsewhere",
        action="store_true",
        help="the file is another machine's: packages, commands, folders and key files are there, and not looked for",
    )


def run(args: argparse.Namespace) -> int:
    """0 it is good; 1 with a line on stderr for each place where it is not."""
    if args.schema:
        print(json.dumps(json_schema(), indent=2))
        return 0
    given: dict[str, Any] = picker_overrides({}, None) if args.pick else {}
    try:
        config = load_config(args.file, given, elsewhere=args.elsewhere)
    except ConfigFileError as error:
        print(error, file=sys.stderr)
        return 1
    missing = [] if args.elsewhere else list(missing_here(config))
    for line in missing:
        print(f"{args.file}: {line}", file=sys.stderr)
    if missing:
        return 1
    print(f"{args.file}: good: {summary(config)}")
    return 0


def summary(config: DualMapConfig) -> str:
    """What would be started, in a line."""
    pools = config.all_pools()
    gateway = config.gateway
    parts = [f"{len(pools)} pool{'s' if len(pools) > 1 else ''}"]
    parts += [f"{f'{name}: ' if name else ''}{_instances(pool)}" for name, pool in pools.items()]
    parts.append(f"{'picker' if gateway.picker else 'gateway'} on {host_port(gateway.host, gateway.port)}")
    parts.append(f"admin on {host_port(gateway.admin_host, gateway.admin_port)}")
    return ", ".join(parts)


def _instances(pool: PoolSettings) -> str:
    kinds = [
        f"{_numbers(pool.vllm.numbers)} vLLM of {pool.vllm.model}" if pool.vllm.model else "",
        f"{_numbers(pool.simulate.numbers)} simulated" if pool.simulate.numbers else "",
        f"{len(pool.instances)} by URL" if pool.instances else "",
        "pods" if pool.discovery else "",
    ]
    return " and ".join(filter(None, kinds))


def _numbers(numbers: dict[Role, int]) -> str:
    """4, or 2 prefill and 2 decode."""
    return " and ".join(str(n) if role is Role.BOTH else f"{n} {role}" for role, n in numbers.items())
