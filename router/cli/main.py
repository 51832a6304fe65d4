"""The `dualmap` command. Each subcommand lives in its own module and is imported only when it is called."""

import argparse
import importlib
import sys

from dualmap import __version__

COMMANDS = {
    "up": ("dualmap.router.cli.up", "start the gateway, its background actors and, if wanted, simulated instances"),
    "pick": (
        "dualmap.router.cli.pick",
        "the same for a proxy such as Envoy: name the instance for each of its requests",
    ),
    "status": ("dualmap.router.cli.status", "show what a running gateway knows"),
    "explain": ("dualmap.router.cli.explain", "tell why a request went to the instance it went to"),
    "scale": ("dualmap.router.cli.scale", "start or drain instances until there are N, or let the load decide again"),
    "drain": ("dualmap.router.cli.drain", "give an instance no new requests; one that was started here then stops"),
    "restart": ("dualmap.router.cli.restart", "restart all instances that were started here, one after the other"),
    "key": ("dualmap.router.cli.key", "make an API key"),
    "files": ("dualmap.router.cli.files", "write the files for Prometheus, Grafana, Kubernetes, Envoy and dualmap up"),
    "demo": ("dualmap.loadtest.cli.demo", "four simulated instances, round_robin against dualmap, and a report"),
    "replay": ("dualmap.loadtest.cli.replay", "replay a trace against a gateway, open loop"),
    "simulate": ("dualmap.loadtest.cli.simulate", "compare policies over a trace in virtual time"),
    "report": ("dualmap.loadtest.cli.report", "compare replayed runs in a table and a page"),
    "replay-journal": (
        "dualmap.router.cli.replay_journal",
        "give a journal's events to the scheduler again, and compare",
    ),
    "trace": ("dualmap.loadtest.cli.trace", "make and describe traces"),
    "calibrate": (
        "dualmap.instances.calibrate.cli",
        "measure a vLLM server, for simulated instances that behave as it does",
    ),
    "sim-instance": ("dualmap.instances.simulated.cli", "run one simulated vLLM server"),
}


def main(argv: list[str] | None = None) -> int:
    """The exit code: 0 done, 1 it failed, 2 the call was wrong."""
    args = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(prog="dualmap", description="A cluster gateway for vLLM fleets.")
    parser.add_argument("--version", action="version", version=f"dualmap {__version__}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (module_name, summary) in COMMANDS.items():
        subparser = subparsers.add_parser(name, help=summary, description=summary)
        if args[:1] == [name]:
            module = importlib.import_module(module_name)
            module.add_arguments(subparser)
            subparser.set_defaults(run=module.run)
    parsed = parser.parse_args(args)
    code: int = parsed.run(parsed)
    return code
