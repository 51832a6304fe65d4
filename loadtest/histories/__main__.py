"""Judge a run by its histories: `python -m dualmap.loadtest.histories JOURNAL... [--run FILE]`."""

import argparse
import sys
from pathlib import Path

from dualmap.loadtest.histories.journals import judge, read_history
from dualmap.loadtest.histories.rows import row_faults, row_of
from dualmap.loadtest.replay.run_file import RunFileError, read_run
from dualmap.router.journal.format import JournalError


def main(argv: list[str] | None = None) -> int:
    """1 if something is wrong with them, 2 if they cannot be read."""
    parser = argparse.ArgumentParser(prog="python -m dualmap.loadtest.histories", description=__doc__)
    parser.add_argument("journals", nargs="+", type=Path, metavar="JOURNAL", help="of every gateway of the run")
    parser.add_argument("--run", type=Path, metavar="FILE", help="of `dualmap replay`: what the clients saw")
    args = parser.parse_args(argv)
    try:
        judged = [judge(read_history(path)) for path in args.journals]
        rows = [row_of(row) for row in read_run(args.run)[1]] if args.run else []
    except (JournalError, RunFileError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    faults = [fault for one in judged for fault in one.faults] + row_faults(rows, judged)
    for one in judged:
        ends: dict[str, int] = {}
        for life in one.lives.by_id.values():
            ends[life.ended] = ends.get(life.ended, 0) + 1
        counts = ", ".join(f"{count} {ended}" for ended, count in sorted(ends.items()))
        print(f"{one.name}: {counts or 'no request'}" + ("" if one.closed else "; it ends early"))
    for fault in faults:
        print(fault)
    print(f"{len(faults)} faults")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
