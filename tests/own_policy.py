"""A package with a policy of its own, as another project would install it."""

from pathlib import Path

NAME = "soonest"
POLICY = '''
from dualmap.scheduler import ChoiceReason, Placement


class Soonest:
    """The instance with the soonest first token, dispatched at once."""

    holds_requests = False

    def __init__(self, config):
        self.views = {}

    def add(self, view):
        self.views[view.instance_id] = view

    def remove(self, view):
        del self.views[view.instance_id]

    def place(self, request, slo_s, avoid, now):
        usable = [view.estimate_ttft(request) for i, view in self.views.items() if i not in avoid]
        if not usable:
            return None
        chosen = min(usable, key=lambda estimate: (estimate.total_s, estimate.instance_id))
        return Placement(chosen, (chosen.instance_id,), ChoiceReason.POLICY)


def broken(config):
    raise RuntimeError("no such thing")
'''


def install(folder: Path, **entry_points: str) -> Path:
    """What pip leaves of it in site-packages, which `folder` is once it is on sys.path."""
    info = folder / "dualmap_soonest-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: dualmap-soonest\nVersion: 1.0\n")
    lines = [f"{name} = {value}" for name, value in (entry_points or {NAME: "soonest_policy:Soonest"}).items()]
    (info / "entry_points.txt").write_text("\n".join(["[dualmap.policies]", *lines, ""]))
    (folder / "soonest_policy.py").write_text(POLICY)
    return folder
