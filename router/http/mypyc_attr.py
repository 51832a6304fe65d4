"""What a compiled class may be: mypy_extensions, which only those need who compile (docs/decisions/0027), says it."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mypy_extensions import mypyc_attr as mypyc_attr
else:

    def mypyc_attr(**options):
        return lambda cls: cls
