"""What each setting means, as the comments and docstrings beside it in the source say."""

import ast
import io
import re
import sys
import tokenize
from pathlib import Path


def descriptions(section: type) -> dict[str, str]:
    """By field: the comment behind it, else the lines of comment above it, else `name: meaning` in the docstring."""
    source = _source_of(section)
    comments = {
        token.start[0]: token.string.lstrip("#").strip()
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    lines = source.splitlines()
    body = next(
        node for node in ast.parse(source).body if isinstance(node, ast.ClassDef) and node.name == section.__name__
    )
    fields = [node for node in body.body if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)]
    names = [node.target.id for node in fields if isinstance(node.target, ast.Name)]
    found = _in_docstring(ast.get_docstring(body) or "", names)
    for name, node in zip(names, fields, strict=True):
        behind = [comments[number] for number in range(node.lineno, (node.end_lineno or 0) + 1) if number in comments]
        above: list[str] = []
        number = node.lineno - 1
        while number in comments and lines[number - 1].lstrip().startswith("#"):
            above.insert(0, comments[number])
            number -= 1
        if behind or above:
            found[name] = " ".join(behind or above)
    return found


def _source_of(section: type) -> str:
    """Of its module, whose source lies beside it where it is compiled."""
    file = Path(sys.modules[section.__module__].__file__ or "")
    return file.with_name(f"{file.name.partition('.')[0]}.py").read_text()


def _in_docstring(text: str, names: list[str]) -> dict[str, str]:
    """`a, b: meaning of both. c: meaning` -> by name."""
    name = "|".join(map(re.escape, names))
    parts = re.split(rf"(?<!\S)((?:{name})(?:, (?:{name}))*): ", " ".join(text.split()))
    return {
        each: meaning.strip()
        for listed, meaning in zip(parts[1::2], parts[2::2], strict=True)
        for each in listed.split(", ")
    }
