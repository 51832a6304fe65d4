"""Where log lines go, and in which form: what is configured, for the processes that write them."""

from dataclasses import dataclass
from typing import Literal

Format = Literal["console", "json"]
Place = Literal["file", "stdout", "both"]


@dataclass(frozen=True, slots=True)
class LogForm:
    """max_bytes: of a file, before it is begun anew. max_files: of those before it that are kept."""

    style: Format = "console"
    level: str = "info"
    to: Place = "file"
    max_bytes: int = 0
    max_files: int = 0

    @property
    def shown(self) -> bool:
        return self.to != "file"

    @property
    def written(self) -> bool:
        return self.to != "stdout"
