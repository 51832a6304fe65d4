"""A cluster gateway for vLLM fleets: dual hash rings keep prefixes where they are cached and no instance overloaded.

The folders of this package are links to those in the root of the source, and real folders in a wheel.
"""

from pathlib import Path

__version__ = "0.1.0"


def is_compiled() -> bool:
    """Whether modules that are worth it are machine code here (setup.py), not Python."""
    return any(Path(__file__).parents[1].glob("dualmap__mypyc.*"))
