"""The `dualmap` command. Each subcommand lives in its own module and is imported only when it is called."""

import argparse
import importlib
import sys

COMMANDS = {
    "up": ("router.up", "start the gateway, its background actors and, if wanted, simulated instances"),
    "pick": ("router.pick_cli", "the same for a proxy such as Envoy: name the instance for each of its requests"),
    "status": ("router.status", "show what a running gateway knows"),
    "explain": ("router.explain_cli", "tell why a request went to the instance it went to"),
    "scale": ("router.scale_cli", "start or drain instances until there are N, or let the load decide again"),
    "drain": ("router.drain_cli", "give an instance no new requests; one that was started here then stops"),
    "restart": ("router.restart_cli", "restart all instances that were started here, one after the other"),
    "key": ("router.key_cli", "make an API key"),
    "demo": ("loadtest.demo", "four simulated instances, round_robin against dualmap, and a report"),
    "replay": ("loadtest.replay_cli", "replay a trace against a gateway, open loop"),
    "simulate": ("loadtest.simulate_cli", "compare policies over a trace in virtual time"),
    "report": ("loadtest.report_cli", "compare replayed runs in a table and a page"),
    "replay-journal": ("router.replay_journal", "give a journal's events to the scheduler again, and compare"),
    "trace": ("loadtest.trace_cli", "make and describe traces"),
    "calibrate": ("instances.calibrate_cli", "measure a vLLM server, for simulated instances that behave as it does"),
    "sim-instance": ("instances.sim_cli", "run one simulated vLLM server"),
}


def main(argv: list[str] | None = None) -> int:
    """The exit code: 0 done, 1 it failed, 2 the call was wrong."""
    args = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(prog="dualmap", description="A cluster gateway for vLLM fleets.")
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


if __name__ == "__main__":
    sys.exit(main())
