"""`dualmap report`: compare the files of several replays."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="+", metavar="RUN", help="files written by dualmap replay")
    parser.add_argument("--html", metavar="FILE", help="write one self-contained HTML page")
    parser.add_argument(
        "--slo", type=float, metavar="S", help="time-to-first-token objective, seconds (default: the first run's)"
    )


def run(args: argparse.Namespace) -> int:
    """0, or 2 with a line on stderr for a file that cannot be read or written."""
    from loadtest.run_file import RunFileError

    try:
        show_report(args.runs, html=args.html, slo_s=args.slo)
    except (RunFileError, OSError) as error:
        print(f"dualmap report: {error}", file=sys.stderr)
        return 2
    return 0


def show_report(runs: Sequence[str | Path], *, html: str | Path | None = None, slo_s: float | None = None) -> None:
    """Print the table and, if asked for, write the page. Raises RunFileError, OSError."""
    from loadtest.report import text_table
    from loadtest.report_html import page
    from loadtest.run_file import read_run
    from loadtest.summary import summarise

    read = [read_run(path) for path in runs]
    objective_s = slo_s or read[0][0].slo_s
    print(text_table([summarise(header, rows, objective_s) for header, rows in read], objective_s))
    if html is not None:
        Path(html).parent.mkdir(parents=True, exist_ok=True)
        Path(html).write_text(page(read, objective_s), encoding="utf-8")
        print(f"report: {html}")
