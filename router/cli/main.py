"""The `dualmap` command. Each subcommand lives in its own module and is imported only when it is called.

A module has add_arguments(parser), which puts every argument into a group, run(args), which returns the exit code, and
EXAMPLES, command lines that show every option.
"""

import argparse
import importlib
import os
import sys
from collections.abc import Collection
from difflib import get_close_matches

from dualmap import __version__, is_compiled
from dualmap.router.cli.no_proxy import reach_this_machine_directly

COMMANDS = {
    "up": ("dualmap.router.cli.up", "start the gateway, its background actors and, if wanted, simulated instances"),
    "pick": (
        "dualmap.router.cli.pick",
        "the same for a proxy such as Envoy: name the instance for each of its requests",
    ),
    "check": ("dualmap.router.cli.check", "say what is wrong with a deployment file, or that it is good"),
    "status": ("dualmap.router.cli.status", "show what a running gateway knows"),
    "explain": ("dualmap.router.cli.explain", "tell why a request went to the instance it went to"),
    "scale": ("dualmap.router.cli.scale", "start or drain instances until there are N, or let the load decide again"),
    "drain": ("dualmap.router.cli.drain", "give an instance no new requests; one that was started here then stops"),
    "role": ("dualmap.router.cli.role", "have an instance that runs already prefill, decode, or do both"),
    "restart": ("dualmap.router.cli.restart", "restart all instances that were started here, one after the other"),
    "key": ("dualmap.router.cli.key", "make an API key"),
    "files": ("dualmap.router.cli.files", "write the files for Prometheus, Grafana, Kubernetes, Envoy and dualmap up"),
    "demo": ("dualmap.loadtest.cli.demo", "four simulated instances, round_robin against dualmap, and a report"),
    "replay": ("dualmap.loadtest.cli.replay", "replay a trace against a gateway, open loop"),
    "simulate": ("dualmap.loadtest.cli.simulate", "compare policies over a trace in virtual time"),
    "plan": ("dualmap.loadtest.cli.plan", "say how many instances should prefill and how many decode for a trace"),
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


def command_parser(complete: Collection[str]) -> argparse.ArgumentParser:
    """complete: the commands whose modules are imported, so that their arguments are known."""
    parser = argparse.ArgumentParser(prog="dualmap", description="A cluster gateway for vLLM fleets.")
    version = f"dualmap {__version__} ({'compiled' if is_compiled() else 'pure Python'})"
    parser.add_argument("--version", action="version", version=version)
    parser.set_defaults(parser=parser)
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (module_name, summary) in COMMANDS.items():
        subparser = subparsers.add_parser(
            name, help=summary, description=summary, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        subparser.set_defaults(parser=subparser)
        if name in complete:
            module = importlib.import_module(module_name)
            module.add_arguments(subparser)
            subparser.set_defaults(run=module.run)
            subparser.epilog = "\n  ".join(["examples:", *module.EXAMPLES])
    return parser


def main(argv: list[str] | None = None) -> int:
    """The exit code: 0 done, 1 it failed, 2 the call was wrong."""
    reach_this_machine_directly()
    args = sys.argv[1:] if argv is None else argv
    called = [arg for arg in args if not arg.startswith("-")][:1]
    parsed, unknown = command_parser(called).parse_known_args(args)
    if unknown:
        _refuse(parsed.parser, unknown)
    try:
        code: int = parsed.run(parsed)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # of `dualmap report | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at the process's end
        return 1
    except OSError as error:
        what = ": ".join(str(part) for part in (error.filename, error.strerror or error) if part)
        print(f"error: {what}", file=sys.stderr)
        return 1
    return code


def _refuse(parser: argparse.ArgumentParser, unknown: list[str]) -> None:
    """Show the usage of the command that was called, and leave the process with 2."""
    known = [option for action in parser._actions for option in action.option_strings]
    near = get_close_matches(unknown[0].partition("=")[0], known, n=1) if unknown[0].startswith("-") else []
    parser.error(f"unrecognized arguments: {' '.join(unknown)}{f' (did you mean {near[0]}?)' if near else ''}")
