"""The gateway alone, as `dualmap.router.cli.standalone`, without what it does by the clock.

Under Callgrind a request takes as long as thirty, and what comes ten times a second would be counted in it, more often
the busier the machine is.
"""

import sys

from dualmap.router.cli import standalone
from dualmap.router.gateway.gateway import Gateway


class UntimedGateway(Gateway):
    def _tick(self) -> None:
        """Nothing is ever due."""


if __name__ == "__main__":
    standalone.Gateway = UntimedGateway  # type: ignore[attr-defined]
    sys.exit(standalone.main())
