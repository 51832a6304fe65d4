"""Commands that documents show can be given."""

import argparse
import importlib
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from dualmap.router.cli.main import COMMANDS
from tests.docs.markdown import ROOT, commands, documents


def known_options(words: list[str]) -> set[str]:
    """Of the command and, where it has any, the command within that the words name."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    importlib.import_module(COMMANDS[words[0]][0]).add_arguments(parser)
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction) and len(words) > 1:
            parser = action.choices[words[1]]
    return set(parser._option_string_actions)


def wrong_words(call: str) -> Iterator[str]:
    words = shlex.split(call.partition(" && ")[0].partition(" > ")[0])[1:]
    if words[0] not in COMMANDS:
        yield words[0]
    else:
        options = (word.partition("=")[0] for word in words if word.startswith("--") and " " not in word)
        yield from (option for option in options if option not in known_options(words))


@pytest.mark.parametrize("document", documents(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_document_shows_commands_and_options_that_there_are(document: Path):
    if document.name == "CHANGELOG.md":
        return  # names what there was
    shown = [call for call in commands(document) if "COMMAND" not in call]
    assert {call: wrong for call in shown if (wrong := list(wrong_words(call)))} == {}


def test_an_unknown_command_and_an_unknown_option_are_found():
    assert list(wrong_words("dualmap raise 4")) == ["raise"]
    assert list(wrong_words('dualmap up --instances 2 --engine-args "--max-num-seqs 2"')) == ["--instances"]
