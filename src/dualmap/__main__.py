"""`python -m dualmap`: the command line."""

import sys

from dualmap.router.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
