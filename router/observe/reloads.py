"""What came of changed configurations, for metrics."""

import time
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Reloads:
    """How many were taken over, and refused. at: when the one in use was read, Unix time."""

    applied: int = 0
    refused: int = 0
    at: float = field(default_factory=time.time)
