"""Garbage collection for a process whose requests leave few reference cycles behind."""

import gc

YOUNG_OBJECTS = 50_000  # Python's default of 700 looks for cycles after every dozen requests


def collect_less() -> None:
    """Called once all is imported and set up, which is then never looked through again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS, 20, 50)
