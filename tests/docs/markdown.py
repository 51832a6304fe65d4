"""What the documents of the project point to: links, anchors, and files that are named in passing."""

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
_FENCED = re.compile(r"^ *```.*?^ *```", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(?<!`)\[(?:[^][]|\[[^]]*\])*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#{1,6} +(.+?) *$", re.MULTILINE)
_NAMED_FILE = re.compile(r"`((?:scheduler|router|instances|loadtest|deploy|docs|tests)/[\w./-]+\.\w+)`")


def documents() -> list[Path]:
    """All Markdown files of the project."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return [ROOT / name for name in listed.stdout.splitlines() if (ROOT / name).is_file()]


def links(document: Path) -> list[str]:
    return _LINK.findall(_FENCED.sub("", document.read_text()))


def anchors(document: Path) -> set[str]:
    """Of its headings, as GitHub makes them."""
    found: set[str] = set()
    for heading in _HEADING.findall(_FENCED.sub("", document.read_text())):
        text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading)
        anchor = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
        number = 0
        while (numbered := f"{anchor}-{number}" if number else anchor) in found:
            number += 1
        found.add(numbered)
    return found


def named_files(document: Path) -> list[str]:
    """Paths of source files between backticks, from the root of the project."""
    return _NAMED_FILE.findall(document.read_text())


def modules(document: Path) -> list[str]:
    """That the document runs by `python -m`."""
    return re.findall(r"python -m ((?:dualmap|tests)[\w.]*\w)", document.read_text())


def commands(document: Path) -> list[str]:
    """Lines of code, or code within a line, that call dualmap; a line that goes on ends without its backslash."""
    text = re.sub(r" *\\\n *", " ", document.read_text())
    lines = re.findall(r"^(?: {4})?(dualmap [a-z].*)$", text, re.MULTILINE)
    return [call.partition("  #")[0].strip() for call in lines + re.findall(r"`(dualmap [a-z][^`\n]*)`", text)]


def broken(document: Path) -> list[str]:
    """What the document points to and is not there; nothing is asked of the network."""
    problems = []
    for link in links(document):
        if "://" in link or link.startswith("mailto:"):
            continue
        path, _, anchor = link.partition("#")
        target = (document.parent / path).resolve() if path else document
        if not target.exists():
            problems.append(f"{link}: there is no such file")
        elif anchor and target.suffix == ".md" and anchor not in anchors(target):
            problems.append(f"{link}: there is no such heading")
    for name in modules(document):
        place = (ROOT / "src" if name.startswith("dualmap") else ROOT) / name.replace(".", "/")
        if not (place.is_dir() or place.with_suffix(".py").is_file()):
            problems.append(f"{name}: there is no such module")
    problems += [f"`{name}`: there is no such file" for name in named_files(document) if not (ROOT / name).exists()]
    return problems
