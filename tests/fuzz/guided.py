"""A target under atheris, in a process of its own: NAME, then what libFuzzer takes."""

import sys

import atheris

with atheris.instrument_imports(include=["dualmap"]):
    from tests.fuzz.targets import target_named

    target = target_named(sys.argv[1])

atheris.Setup([sys.argv[0], *sys.argv[2:]], target.check)
atheris.Fuzz()
