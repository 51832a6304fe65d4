"""The page of the core: an attempt's states and transitions, events and commands, read from the code that has them."""

import ast
import inspect
import re
import typing
from enum import StrEnum
from importlib import import_module

from dualmap.scheduler.attempt import TRANSITIONS, AttemptState, Ending, Step
from dualmap.scheduler.commands import Command
from dualmap.scheduler.core.gate import Scheduler
from dualmap.scheduler.events import Event

HEAD = """# The core
`Scheduler.handle(event, now)` takes a fact and answers with orders. It is the only way to the core's mutable state:
no IO, no clock, no thread. `Scheduler.check()` raises AssertionError if the books contradict themselves;
`Scheduler.story(request_id)` tells how a request came to its state. `make reference` writes this page.

| file of `scheduler/core/` | what |
|---|---|
"""
STATES = """
## An attempt
A request has one attempt at a time: it waits for one instance or runs there. It has none while no instance can run it,
and it is held until one can. `scheduler/attempt.py` has the table, and nothing else writes an attempt. A step that is
not in the table is a broken contract.

"""
EVENTS = """
## Events
What the core is told. An event about an attempt or an incarnation that is over is counted as late, in one place, and
has no effect.

| event | what | goes to |
|---|---|---|
"""
COMMANDS = """
## Commands
What the driver has to do, in the order given.

| command | what |
|---|---|
"""
FILES = ("gate", "arrival", "legs", "cold_start", "answers", "membership", "release", "timers", "news", "books")


def core_page() -> str:
    goes_to = _handlers()
    return (
        HEAD
        + "".join(f"| [{name}.py](../../scheduler/core/{name}.py) | {_first_line(_module(name))} |\n" for name in FILES)
        + STATES
        + _meanings("state", AttemptState)
        + "\n"
        + _meanings("step", Step)
        + "\n"
        + _transitions()
        + "\nAn attempt is over because of one of these:\n\n"
        + "".join(f"- {ending}\n" for ending in Ending)
        + EVENTS
        + "".join(f"| `{e.__name__}` | {_first_line(e)} | `{goes_to[e.__name__]}` |\n" for e in typing.get_args(Event))
        + COMMANDS
        + "".join(f"| `{c.__name__}` | {_first_line(c)} |\n" for c in typing.get_args(Command))
    )


def _transitions() -> str:
    lines = [f"| | {' | '.join(Step)} |", "|---" * (len(Step) + 1) + "|"]
    for state in AttemptState:
        cells = (TRANSITIONS.get((state, step)) for step in Step)
        lines.append(f"| **{state}** | {' | '.join('' if cell is None else cell for cell in cells)} |")
    return "\n".join(lines) + "\n"


def _meanings(name: str, enum: type[StrEnum]) -> str:
    """What the comment of each member says."""
    said = dict(re.findall(r'^    \w+ = "(.+?)"  # (.+)$', inspect.getsource(enum), re.MULTILINE))
    return f"| {name} | what |\n|---|---|\n" + "".join(f"| {member} | {said[member]} |\n" for member in enum)


def _handlers() -> dict[str, str]:
    """Event -> function of the core, as the gate's match says."""
    tree = ast.parse(inspect.getsource(inspect.getmodule(Scheduler) or Scheduler))
    found: dict[str, str] = {}
    for case in (node for node in ast.walk(tree) if isinstance(node, ast.match_case)):
        calls = [node.func for node in ast.walk(ast.Module(case.body, [])) if isinstance(node, ast.Call)]
        for pattern in (node for node in ast.walk(case.pattern) if isinstance(node, ast.MatchClass)):
            found[ast.unparse(pattern.cls)] = ast.unparse(calls[0])
    return found


def _module(name: str) -> object:
    return import_module(f"dualmap.scheduler.core.{name}")


def _first_line(what: object) -> str:
    return " ".join((inspect.getdoc(what) or "").partition("\n\n")[0].split())
