"""`dualmap report`: compare the files of several replays, or show a policy study."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

EXAMPLES = (
    "dualmap report runs/round_robin.jsonl runs/dualmap.jsonl --slo 2 --html runs/report.html",
    "dualmap report runs/study.jsonl --markdown runs/study.md",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    compared = parser.add_argument_group("what is compared")
    compared.add_argument(
        "runs", nargs="+", metavar="RUN", help="files written by `dualmap replay`, or files of a policy study"
    )
    compared.add_argument(
        "--slo",
        type=float,
        metavar="SECONDS",
        help="objective of replays for the time to the first token (default: the first run's)",
    )
    output = parser.add_argument_group("output, besides a table")
    output.add_argument("--html", metavar="FILE", help="write one self-contained HTML page (default: none)")
    output.add_argument("--markdown", metavar="FILE", help="write a study's tables as Markdown (default: none)")


def run(args: argparse.Namespace) -> int:
    """0, or 2 with a line on stderr for a file that cannot be read or written."""
    from dualmap.loadtest.replay.run_file import RunFileError
    from dualmap.loadtest.study.file import StudyFileError, is_study

    studies = [path for path in args.runs if is_study(path)]
    try:
        if not studies:
            if args.markdown is not None:
                raise RunFileError("--markdown is for studies; these are files of replays")
            show_report(args.runs, html=args.html, slo_s=args.slo)
        elif len(studies) < len(args.runs):
            other = next(path for path in args.runs if path not in studies)
            raise StudyFileError(f"{studies[0]} is a study and {other} is not: they cannot be compared")
        elif args.slo is not None:
            raise StudyFileError("--slo is for replays; the rows of a study were counted against its own SLO")
        else:
            show_study(studies, html=args.html, markdown=args.markdown)
    except (RunFileError, StudyFileError, OSError) as error:
        print(f"dualmap report: {error}", file=sys.stderr)
        return 2
    return 0


def show_study(
    paths: Sequence[str | Path], *, html: str | Path | None = None, markdown: str | Path | None = None
) -> None:
    """Print the tables and write what is asked for. Raises StudyFileError, OSError."""
    from dualmap.loadtest.study.file import read_studies
    from dualmap.loadtest.study.page import study_page
    from dualmap.loadtest.study.text import markdown_report, text_report

    study = read_studies(paths)
    print(text_report(study))
    for path, make in ((html, study_page), (markdown, markdown_report)):
        if path is not None:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            Path(path).write_text(make(study), encoding="utf-8")
            print(f"report: {path}")


def show_report(runs: Sequence[str | Path], *, html: str | Path | None = None, slo_s: float | None = None) -> None:
    """Print the table and, if asked for, write the page. Raises RunFileError, OSError."""
    from dualmap.loadtest.replay.run_file import read_run
    from dualmap.loadtest.reports.page import page
    from dualmap.loadtest.reports.summary import summarise
    from dualmap.loadtest.reports.table import text_table

    read = [read_run(path) for path in runs]
    objective_s = slo_s or read[0][0].slo_s
    print(text_table([summarise(header, rows, objective_s) for header, rows in read], objective_s))
    if html is not None:
        Path(html).parent.mkdir(parents=True, exist_ok=True)
        Path(html).write_text(page(read, objective_s), encoding="utf-8")
        print(f"report: {html}")
