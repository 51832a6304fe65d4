"""A table for a terminal."""

from collections.abc import Sequence


def aligned(rows: Sequence[Sequence[str]], *, underlined: bool = False) -> list[str]:
    """Lines: the first column to the left, the others to the right. underlined: the first row is a header."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    if underlined:
        lines.insert(1, "  ".join("-" * width for width in widths))
    return lines
