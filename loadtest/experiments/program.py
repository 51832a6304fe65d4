"""An experiment as a program: `python -m dualmap.loadtest.experiments.NAME`."""

import argparse
import sys
from collections.abc import Callable, Sequence


def run_as_program(
    add_arguments: Callable[[argparse.ArgumentParser], None],
    run: Callable[[argparse.Namespace], int],
    argv: Sequence[str] | None = None,
) -> int:
    """The exit code of `run`, which stands in the experiment's module."""
    spec = sys.modules[run.__module__].__spec__  # has the name of a module that runs as __main__, too
    parser = argparse.ArgumentParser(prog=f"python -m {spec.name}" if spec else None)
    add_arguments(parser)
    return run(parser.parse_args(argv))
