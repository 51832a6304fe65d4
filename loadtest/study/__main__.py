"""The policy study.

python -m dualmap.loadtest.study --out runs/study.jsonl && dualmap report runs/study.jsonl
"""

import argparse
import fnmatch
import os
import sys
from pathlib import Path

from dualmap.loadtest.option_lists import policies
from dualmap.loadtest.study.cells import StudyCell, half, only_of, study_cells
from dualmap.loadtest.study.log import StudyLog
from dualmap.loadtest.study.work_off import work_off
from dualmap.loadtest.study.workers import JobError


def main(argv: list[str] | None = None) -> int:
    """0 done, 1 something broke, 2 a value or file that cannot be used, 130 for a Ctrl-C. What the file has is not
    done again."""
    parser = argparse.ArgumentParser(
        prog="python -m dualmap.loadtest.study", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument(
        "--traces", type=Path, default=_traces(), metavar="DIR", help="where the traces are (%(default)s)"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/study.jsonl"), metavar="FILE")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, metavar="N", help="processes")
    parser.add_argument("--only", metavar="PATTERN", help="cells whose name contains it; * and ? as in file names")
    parser.add_argument("--policy", metavar="A,B", help="these alone (default: those that each cell names)")
    parser.add_argument("--half", action="store_true", help="half of the requests where a cell has 8,000")
    parser.add_argument("--quick", action="store_true", help="a tenth of the requests, one seed, no large cluster")
    parser.add_argument("--list", action="store_true", help="print the cells' names and do nothing")
    args = parser.parse_args(argv)
    try:
        named = policies(args.policy) if args.policy else None
    except ValueError as error:
        print(f"study: {error}", file=sys.stderr)
        return 2
    cells = [cell for cell in study_cells(args.traces, quick=args.quick) if _wanted(cell, args.only)]
    if args.half:
        cells = [half(cell) for cell in cells]
    if named is not None:
        cells = [only_of(cell, named) for cell in cells]
    if not cells:
        print(f"study: no cell is called like {args.only!r}; --list names them", file=sys.stderr)
        return 2
    for cell in cells if args.list else ():
        print(f"{cell.name}: {len(cell.jobs)} jobs")
    for cell in cells:
        if cell.left_out:
            print(f"left out of {cell.name}: {cell.left_out}", file=sys.stderr)
    if args.list:
        return 0
    try:
        with StudyLog(args.out, resume=True) as log:
            work_off([job for cell in cells for job in cell.jobs], log, args.jobs)
    except (ValueError, OSError) as error:
        print(f"study: {error}", file=sys.stderr)
        return 2
    except JobError as error:
        print(f"study: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"study: interrupted; what was finished is in {args.out}, and the same command goes on", file=sys.stderr)
        return 130
    return 0


def _traces() -> Path:
    """In the current directory, or shared with other checkouts beside it."""
    shared = Path("../shared/traces")
    return shared if shared.is_dir() and not Path("traces").is_dir() else Path("traces")


def _wanted(cell: StudyCell, pattern: str | None) -> bool:
    return pattern is None or fnmatch.fnmatchcase(cell.name, f"*{pattern}*")


if __name__ == "__main__":
    sys.exit(main())
