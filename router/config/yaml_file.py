"""Reading a deployment file: YAML in which each key stands once, and ${NAME} is a variable of the environment."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from dualmap.router.config.faults import ConfigFileError, Fault, Place, dotted, is_secret

_MERGE = "tag:yaml.org,2002:merge"
_TEXT = "tag:yaml.org,2002:str"
_ALIAS = re.compile(r"(alias|anchor|tag) '.*?'")  # a secret may begin with *, & or !
_VARIABLE = re.compile(r"\$\$\{|\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)\}|\$\{")


@dataclass(slots=True)
class YamlFile:
    """values: what the file says. lines: of each place, from 1. written: values with variables, as the file has them.
    faults: keys that stand twice, and variables that are not set."""

    path: Path | None = None
    values: dict[str, Any] = field(default_factory=dict)
    lines: dict[Place, int] = field(default_factory=dict)
    written: dict[Place, str] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)

    def overlay(self, given: Mapping[str, Any]) -> None:
        """Lay sections over those of the file, key by key. What is laid over has no line."""
        for section, value in given.items():
            known: Any = self.values.get(section)
            laid: list[Place] = [(section,)]
            if isinstance(known, dict) and isinstance(value, dict):
                laid = [(section, key) for key in value]
                value = {**known, **value}
            self.values[section] = value
            self.lines = {p: line for p, line in self.lines.items() if not any(p[: len(over)] == over for over in laid)}
            self.lines |= dict.fromkeys(laid, 0)

    def describe(self, fault: Fault) -> str:
        """For a person: FILE, line N: place: rule, not value."""
        place = fault.place
        while place and place not in self.lines:
            place = place[:-1]
        line = self.lines.get(place, 0) if place else None
        shown = fault.value
        if shown and line and fault.place in self.written:
            shown = repr(self.written[fault.place])  # the variable: its value may be a secret
        parts = [
            "" if self.path is None or line == 0 else f"{self.path}, line {line}" if line else str(self.path),
            dotted(fault.place) or "configuration",
            f"{fault.rule}{f', not {shown}' if shown else ''}",
        ]
        return ": ".join(filter(None, parts))


def read_yaml(path: Path, environment: Mapping[str, str]) -> YamlFile:
    """Raises ConfigFileError if it cannot be read, is no YAML or no mapping; the message shows no content."""
    try:
        with path.open("rb") as stream:  # of bytes: an error of YAML quotes the line of a text
            loader = yaml.SafeLoader(stream)
            file = YamlFile(path)
            node = loader.get_single_node()
            if node is not None:
                _Reader(file, environment).visit(node, ())
                values = loader.construct_document(node)
                file.values = {} if values is None else values
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f", line {mark.line + 1}" if mark else ""
        what = _ALIAS.sub(r"\1", " ".join(filter(None, (error.context, error.problem))))
        raise ConfigFileError(f"{path}{line}: {what}") from None
    except OSError as error:
        raise ConfigFileError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError, yaml.YAMLError) as error:  # 2026-13-45 is a ValueError
        raise ConfigFileError(f"{path}: {' '.join(str(error).split())}") from None
    if not isinstance(file.values, dict):
        raise ConfigFileError(f"{path}: must be a mapping of sections, not {type(file.values).__name__}")
    return file


class _Reader:
    """Goes once over every node: a shared one (`&name`, `*name`) belongs to the place where it stands first."""

    def __init__(self, file: YamlFile, environment: Mapping[str, str]) -> None:
        self._file = file
        self._environment = environment
        self._seen: set[int] = set()

    def visit(self, node: yaml.Node, place: Place) -> None:
        self._file.lines.setdefault(place, node.start_mark.line + 1)
        if id(node) in self._seen:
            return
        self._seen.add(id(node))
        if isinstance(node, yaml.MappingNode):
            self._visit_keys(node, place)
        elif isinstance(node, yaml.SequenceNode):
            for position, item in enumerate(node.value):
                self.visit(item, (*place, position))
        elif node.tag == _TEXT and "${" in node.value:
            self._file.written[place] = node.value
            node.value = self._expanded(node.value, place)

    def _visit_keys(self, node: yaml.MappingNode, place: Place) -> None:
        lines: dict[tuple[str, str], int] = {}
        for key, value in node.value:
            if key.tag == _MERGE or not isinstance(key, yaml.ScalarNode):
                self.visit(value, place)
                continue
            line = key.start_mark.line + 1
            below = (*place, key.value)
            self._file.lines[below] = line
            if (first := lines.get((key.tag, key.value))) is not None:
                self._file.faults.append(Fault(below, f"stands twice, for the first time on line {first}"))
            lines[key.tag, key.value] = line
            self.visit(value, below)

    def _expanded(self, text: str, place: Place) -> str:
        def value_of(match: re.Match[str]) -> str:
            name = match["name"]
            if match[0] == "$${":
                return "${"
            if name is None:
                rule = "a variable is written ${NAME}, and a ${ that is none $${"
                self._file.faults.append(Fault(place, rule, "" if is_secret(place) else repr(text)))
            elif name not in self._environment:
                self._file.faults.append(Fault(place, f"the environment variable {name} is not set"))
            else:
                return self._environment[name]
            return match[0]

        return _VARIABLE.sub(value_of, text)
