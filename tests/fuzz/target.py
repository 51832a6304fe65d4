"""What is fuzzed: a function that takes any bytes, and raises where they break a property."""

import ast
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

from xxhash import xxh3_64_intdigest

CORPORA = Path(__file__).parent / "corpus"
WORDS = Path(__file__).parent / "words"


@dataclass(frozen=True, slots=True)
class Target:
    """check: raises what no input may cause. most_bytes: of an input."""

    name: str
    check: Callable[[bytes], None]
    most_bytes: int = 4096

    def corpus(self) -> list[bytes]:
        """Inputs to begin with; also those that once broke a property."""
        return _read(CORPORA / f"{self.name}.txt")

    def words(self) -> list[bytes]:
        """What inputs are made of, for mutations."""
        return _read(WORDS / f"{self.name}.txt")


def _read(path: Path) -> list[bytes]:
    """One a line, as Python writes bytes."""
    return [ast.literal_eval(line) for line in path.read_text().splitlines()]


def cut(data: bytes) -> list[bytes]:
    """Pieces of the data, as they may come: the same for the same data."""
    random = Random(xxh3_64_intdigest(data))
    most = random.choice((1, 3, 17, 200, len(data) or 1))
    pieces, start = [], 0
    while start < len(data):
        end = start + random.randint(1, most)
        pieces.append(data[start:end])
        start = end
    return pieces
