"""Mutation runs: small faults put into modules, one at a time, and the tests that do not notice.

    python -m tests.mutation scheduler/steal.py scheduler/pick.py --tests tests/scheduler --minutes 15

Prints each mutant that survives. The tests run once as they are; from then on each mutant is a fork of that process,
in which the tests that call its function run again, the quickest first, until one fails.
"""

import argparse
import os
import sys
from pathlib import Path

import pytest

from tests.mutation.run import MutationRun


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__.partition("\n")[0])
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    parser.add_argument("--tests", nargs="+", default=["tests/scheduler"], metavar="PATH")
    parser.add_argument("--minutes", type=float, default=30.0, help="of CPU, all together (30)")
    parser.add_argument("--nice", type=int, default=15, help="niceness of the run (15)")
    args = parser.parse_args()
    os.nice(args.nice)
    return pytest.main(
        ["-q", "-s", "-p", "no:cacheprovider", "-p", "no:warnings", "--no-header", *args.tests],
        [MutationRun(args.files, args.minutes * 60.0)],
    )


if __name__ == "__main__":
    sys.exit(main())
