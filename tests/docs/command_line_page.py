"""The page of all commands, made from their parsers."""

import argparse
from collections.abc import Iterator

from dualmap.router.cli.main import COMMANDS, command_parser

HEAD = """# Command line
`dualmap COMMAND`, or `python -m dualmap COMMAND`. The exit code is 0 where the command did its work, 1 where it
failed, 2 where the call or the configuration was wrong; 1 where `dualmap check` found a file wrong, which is its
work. `dualmap --version` prints the version, `dualmap COMMAND --help` the options. `make reference` writes this page.

Commands that ask a running gateway (`status`, `explain`, `scale`, `drain`, `restart`) send the content of the
environment variable `DUALMAP_ADMIN_TOKEN` as bearer token.
"""
STANDARD_GROUPS = ("positional arguments", "options")


def command_line_page() -> str:
    listed = "".join(f"| [`dualmap {name}`](#dualmap-{name}) | {what} |\n" for name, (_, what) in COMMANDS.items())
    return f"{HEAD}\n| command | what |\n|---|---|\n{listed}" + "".join(map(_command, COMMANDS))


def _command(name: str) -> str:
    (commands,) = filter(_is_inner, command_parser([name])._actions)
    assert isinstance(commands.choices, dict)
    return "".join(_parser(commands.choices[name]))


def _parser(parser: argparse.ArgumentParser) -> Iterator[str]:
    yield f"\n## `{parser.prog}`\n{(parser.description or '').strip()}\n"
    title = None
    for group in parser._action_groups:
        rows = [_row(action) for action in group._group_actions if action.dest != "help" and not _is_inner(action)]
        about = f": {group.description}" if group.description else ""
        shown = "" if group.title in STANDARD_GROUPS else f"**{group.title}**{about}\n\n"
        if rows and shown != title:
            yield f"\n{shown}| option | what |\n|---|---|\n"
            title = shown
        yield from rows
    if parser.epilog:
        yield f"\n```\n{parser.epilog.strip()}\n```\n"
    for action in filter(_is_inner, parser._actions):
        summaries = {choice.dest: choice.help for choice in action._choices_actions}  # type: ignore[attr-defined]
        for name, inner in (action.choices or {}).items():  # type: ignore[union-attr]
            inner.description = inner.description or summaries.get(name)
            yield from _parser(inner)


def _is_inner(action: argparse.Action) -> bool:
    return isinstance(action, argparse._SubParsersAction)


def _row(action: argparse.Action) -> str:
    name = action.metavar or (" | ".join(map(str, action.choices)) if action.choices else action.dest.upper())
    value = "" if action.nargs == 0 else " ".join(name) if isinstance(name, tuple) else name
    shown = " ".join(part for part in (", ".join(action.option_strings), value) if part)
    what = (action.help or "") % {**vars(action), "prog": "dualmap"}
    return "| `{}` | {} |\n".format(shown.replace("|", "\\|"), what.replace("|", "\\|"))
