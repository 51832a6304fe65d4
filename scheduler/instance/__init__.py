"""One instance as the core sees it; view.py answers for all of it."""
