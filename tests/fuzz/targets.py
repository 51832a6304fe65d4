"""All targets by name. Each module is imported only with its target: one that is missing stops no other."""

from importlib import import_module

from tests.fuzz.target import Target

TARGETS = {
    "requests": "requests",
    "bodies": "bodies",
    "answers": "answers",
    "events": "answers",
    "plain": "answers",
    "kv_events": "engines",
    "metrics": "engines",
    "proxies": "proxies",
    "config": "files",
    "keys": "files",
}  # and the module of each


def target_named(name: str) -> Target:
    target = getattr(import_module(f"tests.fuzz.{TARGETS[name]}"), name.upper())
    assert isinstance(target, Target)
    return target
