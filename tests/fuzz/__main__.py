"""Fuzzing: inputs made by machine, and properties that hold for each.

    python -m tests.fuzz requests --inputs 1000000
    python -m tests.fuzz all --seconds 30

Where atheris is installed (https://github.com/google/atheris), what the code does with an input guides the next ones;
`--plain` makes random changes all the same. `--keep` puts the inputs that do something new into the corpus.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

from tests.fuzz.run import BrokenPropertyError, run
from tests.fuzz.target import CORPORA
from tests.fuzz.targets import TARGETS, target_named

MOST_CORPUS_BYTES = 12 * 1024


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__.partition("\n")[0])
    parser.add_argument("target", choices=[*TARGETS, "all"])
    parser.add_argument("--inputs", type=int, default=1 << 62, help="at most, of each target")
    parser.add_argument("--seconds", type=float, default=30.0, help="at most, of all targets together (30)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--plain", action="store_true", help="without atheris")
    parser.add_argument("--keep", action="store_true", help="add to the corpus; with atheris")
    args = parser.parse_args()
    names = list(TARGETS) if args.target == "all" else [args.target]
    seconds = args.seconds / len(names)
    guided = not args.plain and find_spec("atheris") is not None
    failed = False
    for name in names:
        if guided:
            failed |= _run_guided(name, args.inputs, seconds, args.seed, args.keep)
            continue
        try:
            count = run(target_named(name), seconds, args.inputs, args.seed)
            print(f"{name}: {count} inputs", flush=True)
        except BrokenPropertyError as error:
            failed = True
            print(error, file=sys.stderr, flush=True)
    return failed


def _run_guided(name: str, inputs: int, seconds: float, seed: int, keep: bool) -> bool:
    """In a process of its own, which libFuzzer ends as it likes. Whether it failed."""
    target = target_named(name)
    with tempfile.TemporaryDirectory(prefix="dualmap-fuzz-") as folder:
        corpus = Path(folder) / "corpus"
        corpus.mkdir()
        for number, data in enumerate(target.corpus()):
            (corpus / f"{number:04}").write_bytes(data)
        words = Path(folder) / "words"
        words.write_text("".join(f'"{_escaped(word)}"\n' for word in target.words()))
        command = [sys.executable, "-m", "tests.fuzz.guided", name, str(corpus), f"-dict={words}", f"-seed={seed}"]
        command += [
            f"-max_total_time={seconds:.0f}",
            f"-max_len={target.most_bytes}",
            "-timeout=5",
            "-rss_limit_mb=2048",
        ]
        command += [f"-artifact_prefix={folder}/", "-print_final_stats=1", "-verbosity=0"]
        if inputs < 1 << 31:
            command.append(f"-runs={inputs}")
        done = subprocess.run(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONHASHSEED": "0"})
        for line in done.stderr.splitlines():
            if "number_of_executed_units" in line or "peak_rss_mb" in line:
                print(f"{name}: {line.replace('stat::', '')}", flush=True)
        if done.returncode:
            print(done.stderr[-6000:], file=sys.stderr)
            for found in Path(folder).glob("*-*"):
                print(f"{name}: {found.read_bytes()!r}", file=sys.stderr)
        elif keep:
            _keep(name, target.corpus(), corpus)
        return done.returncode != 0


def _escaped(word: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in word)


def _keep(name: str, known: list[bytes], corpus: Path) -> None:
    """The smallest of the inputs that did something new."""
    found = sorted({path.read_bytes() for path in corpus.iterdir()} - set(known), key=lambda data: (len(data), data))
    lines = [repr(data) for data in known]
    size = sum(map(len, lines))
    for data in found:
        lines.append(repr(data))
        size += len(lines[-1])
        if size > MOST_CORPUS_BYTES:
            break
    (CORPORA / f"{name}.txt").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    sys.exit(main())
