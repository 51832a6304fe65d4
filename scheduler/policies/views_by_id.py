"""Instances in the order of their ids, so that a choice does not depend on the order of joining."""

from dualmap.scheduler.instance.view import InstanceView


class ViewsById:
    """A policy that names an instance by its place in this order. Dispatches at once."""

    holds_requests = False

    def __init__(self) -> None:
        self._views: list[InstanceView] = []

    def add(self, view: InstanceView) -> None:
        self._views.append(view)
        self._views.sort(key=lambda v: v.instance_id)

    def remove(self, view: InstanceView) -> None:
        self._views.remove(view)
