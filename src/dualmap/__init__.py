"""A cluster gateway for vLLM fleets: dual hash rings keep prefixes where they are cached and no instance overloaded.

The folders of this package are links to those in the root of the source, and real folders in a wheel.
"""

__version__ = "0.1.0"
