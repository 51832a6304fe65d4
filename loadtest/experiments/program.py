"""An experiment as a program: `python -m dualmap.loadtest.experiments.NAME`."""

import argparse
import signal
import sys
from collections.abc import Callable, Sequence

INTERRUPTED = 130  # exit code, as a shell tells of Ctrl-C


def run_as_program(
    add_arguments: Callable[[argparse.ArgumentParser], None],
    run: Callable[[argparse.Namespace], int],
    argv: Sequence[str] | None = None,
) -> int:
    """The exit code of `run`, which stands in the experiment's module. A program that is told to end does so as by
    Ctrl-C, also in the background, where a shell has it ignore that: what it has started ends with it."""
    if argv is None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.default_int_handler)
    spec = sys.modules[run.__module__].__spec__  # has the name of a module that runs as __main__, too
    parser = argparse.ArgumentParser(prog=f"python -m {spec.name}" if spec else None)
    add_arguments(parser)
    try:
        return run(parser.parse_args(argv))
    except KeyboardInterrupt:
        return INTERRUPTED
