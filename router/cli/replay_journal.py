"""`dualmap replay-journal FILE`: the same events give the same commands, or what differs first."""

import argparse
import dataclasses
import sys
import time
from pathlib import Path
from typing import Any

from dualmap.router.config.installed_policies import register_installed_policies
from dualmap.router.journal.format import JournalError
from dualmap.router.journal.replay import Difference, JournalReader, Replay, replay
from dualmap.scheduler.config_text import read_settings
from dualmap.scheduler.errors import ConfigError

_TERMINAL_PERIOD_S = 0.5
_PLAIN_PERIOD_S = 5.0
_SHOWN_ITEMS = 4
EXAMPLES = (
    "dualmap replay-journal runs/journal-gateway-0.jsonl.gz",
    "dualmap replay-journal runs/journal-gateway-0.jsonl.gz --until 10000 --set max_moves=4 --set taking=false",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    recorded = parser.add_argument_group("journal")
    recorded.add_argument("journal", type=Path, metavar="FILE", help="written by `dualmap up --journal FILE`")
    recorded.add_argument(
        "--until", type=int, metavar="N", help="stop after this number of events (default: at the end)"
    )
    tried = parser.add_argument_group("scheduler")
    tried.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="another value of its configuration, to see where it decides otherwise; repeatable (default: none)",
    )


def run(args: argparse.Namespace) -> int:
    """0 same commands, or another configuration tried; 1 other commands; 2 a file or a value that cannot be used."""
    progress = _Progress()
    try:
        register_installed_policies()
        reader = JournalReader(args.journal)
        config = dataclasses.replace(reader.header.config, **read_settings(args.set))
        progress.reader = reader
        done = replay(reader, config, until=args.until, stop_at_difference=not args.set, progress=progress)
    except (JournalError, ConfigError) as error:
        progress.end()
        print(f"error: {error}", file=sys.stderr)
        return 2
    progress.end()
    for note in (*reader.header.notes, reader.note):
        if note:
            print(f"note: {note}")
    if done.first is not None:
        print(describe(args.journal, done.first))
    print(_summary(done))
    if args.set:
        print(f"with {', '.join(args.set)}: {done.differing} of {done.events} events get other commands")
        return 0
    return 0 if done.first is None else 1


def describe(path: Path, difference: Difference) -> str:
    """For a person to read."""
    record = difference.record
    expected, actual = _lines(record.commands, record.error), _lines(difference.commands, difference.error)
    lines = [f"{path}: line {difference.line}: event {difference.number} gets other commands than recorded"]
    lines += [f"  time      {record.t!r}", f"  event     {_shown(record.event)}"]
    lines += [f"  expected  {line}" for line in expected]
    lines += [f"  actual    {line}" for line in actual]
    pairs = list(zip(record.commands, difference.commands, strict=False))
    unlike = next((pair for pair in pairs if pair[0] != pair[1] and type(pair[0]) is type(pair[1])), None)
    if unlike is not None:
        for field in dataclasses.fields(unlike[0]):
            was, now = getattr(unlike[0], field.name), getattr(unlike[1], field.name)
            if was != now:
                lines.append(f"  differs   {field.name}: expected {_shown(was)}, actual {_shown(now)}")
    return "\n".join(lines)


def _lines(commands: tuple[Any, ...], error: str) -> list[str]:
    return [_shown(command) for command in commands] + ([f"raises {error}"] if error else []) or ["no commands"]


def _shown(value: Any) -> str:
    """As repr, with long tuples cut."""
    if dataclasses.is_dataclass(value):
        fields = ", ".join(f"{f.name}={_shown(getattr(value, f.name))}" for f in dataclasses.fields(value))
        return f"{type(value).__name__}({fields})"
    if isinstance(value, tuple):
        shown = ", ".join(map(_shown, value[:_SHOWN_ITEMS]))
        return f"({shown}, ... {len(value)} in all)" if len(value) > _SHOWN_ITEMS else f"({shown})"
    return repr(getattr(value, "value", value))


def _summary(done: Replay) -> str:
    each_us = done.cpu_s / done.events * 1e6 if done.events else 0.0
    return (
        f"{done.events} events, {done.commands} commands, {done.requests} requests, {done.duration_s:.3f} s covered, "
        f"{each_us:.1f} us CPU an event: {'other' if done.differing else 'the same'} commands"
    )


class _Progress:
    """One line on stderr: rewritten in place on a terminal, a new one every few seconds elsewhere."""

    def __init__(self) -> None:
        self.reader: JournalReader | None = None
        self._on_terminal = sys.stderr.isatty()
        self._period_s = _TERMINAL_PERIOD_S if self._on_terminal else _PLAIN_PERIOD_S
        self._next = time.monotonic() + self._period_s

    def __call__(self, done: Replay) -> None:
        now = time.monotonic()
        if now < self._next or self.reader is None:
            return
        self._next = now + self._period_s
        width = 30
        bar = "#" * int(self.reader.share * width)
        line = f"[{bar:<{width}}] {self.reader.share:4.0%}  {done.events} events, {done.requests} requests"
        print(f"\r\x1b[K{line}" if self._on_terminal else line, end="" if self._on_terminal else "\n", file=sys.stderr)
        sys.stderr.flush()

    def end(self) -> None:
        if self._on_terminal:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
