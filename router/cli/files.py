"""`dualmap files`: write the files for Prometheus, Grafana, Kubernetes and Envoy that come with this version."""

import argparse
import sys
from importlib.resources import as_file, files
from pathlib import Path
from shutil import copyfile

import dualmap

# What each kind is a copy of, in the package's folder deploy: a file, or a folder with all that is below it.
KINDS = {
    "config": "dualmap.yaml",
    "envoy": "envoy",
    "grafana": "grafana",
    "helm": "helm",
    "kubernetes": "kubernetes",
    "prometheus": "prometheus",
}
EXAMPLES = ("dualmap files config", "dualmap files helm --out deploy/dualmap --force")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    written = parser.add_argument_group("what is written")
    written.add_argument("kind", choices=KINDS, help="config: dualmap.yaml with its comments; helm: the chart")
    written.add_argument(
        "--out", type=Path, default=Path(), metavar="DIR", help="where they go (default: the current folder)"
    )
    written.add_argument("--force", action="store_true", help="replace files that are there (default: refuse)")


def run(args: argparse.Namespace) -> int:
    """All files, or none where one of them is there and --force is not given."""
    with as_file(files(dualmap).joinpath("deploy", KINDS[args.kind])) as source:
        found = [source] if source.is_file() else sorted(path for path in source.rglob("*") if path.is_file())
        folder = source.parent if source.is_file() else source
        pairs = [(path, args.out / path.relative_to(folder)) for path in found]
        if there := [target for _, target in pairs if target.exists() and not args.force]:
            print(f"error: {there[0]} is there; --force replaces it", file=sys.stderr)
            return 1
        try:
            for path, target in pairs:
                target.parent.mkdir(parents=True, exist_ok=True)
                copyfile(path, target)
                print(target)
        except OSError as error:
            print(f"error: {error.filename}: {error.strerror}", file=sys.stderr)
            return 1
    return 0
