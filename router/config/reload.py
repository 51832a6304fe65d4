"""A changed configuration while the deployment runs: taken over whole, or refused whole with what stands in the way."""

import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from dualmap.router.config.config import DualMapConfig
from dualmap.router.config.load import ConfigFileError, load_config
from dualmap.router.observe.reloads import Reloads
from dualmap.scheduler.config import LIVE_SETTINGS
from dualmap.scheduler.fleet.fleet_event import EventKind, FleetEvent
from dualmap.scheduler.role import Role

# What can change: the instances that run anywhere, the bounds of scaling, limits, and what a core reads anew for each
# decision. API keys and certificates are in files of their own, which are followed as well.
_SCALING = "min_replicas|max_replicas|scale_to_zero_after_s|dry_run|drain_deadline_s|change_roles"
_BOUNDS = r"(prefill|decode)\.(min|max)_replicas"
_LIVE = rf"instances|discovery|scaling\.({_SCALING}|{_BOUNDS})|scheduler\.({'|'.join(LIVE_SETTINGS)})"
LIVE = re.compile(rf"^(limits\.|model_aliases(\.|$)|(pools\.[^.]+\.)?({_LIVE})(\.|$))")

NONE = "none"  # in place of an empty text
MOST_CHARACTERS = 2000  # that are told of what changed, or of why nothing did


class ConfigFile:
    """config: in use. reloads: what came of changes so far. sign: set for a look at the file that is not due to a
    change of it."""

    def __init__(
        self,
        path: Path | None,
        given: dict[str, Any],
        config: DualMapConfig,
        say: Callable[[str], None],
        tell: Callable[[FleetEvent], None],
    ) -> None:
        """path: None: there are flags only. given: what flags say, laid over the file. say: is told where nothing came
        of it, tell: what did."""
        self.config = config
        self.sign = threading.Event()
        self.reloads = Reloads()
        self._path = path
        self._given = given
        self._say = say
        self._tell = tell
        self._seen = self._content()

    def news(self) -> DualMapConfig | None:
        """The configuration, if it is another one by now that can be used."""
        if self._path is None:
            return None
        content = self._content()
        asked = self.sign.is_set()
        self.sign.clear()
        if content is None or (content == self._seen and not asked):
            return None  # between two versions there may be no file for a moment
        self._seen = content
        try:
            config = load_config(self._path, self._given)
        except ConfigFileError as error:
            self._refuse(str(error))
            return None
        refused = fixed_changes(self.config, config)
        if refused:
            self._refuse("\n".join(refused))
            return None
        if config == self.config:
            self._say("the configuration has not changed")
            return None
        self._note(EventKind.CONFIG_APPLIED, "; ".join(live_changes(self.config, config)))
        self.config = config
        self.reloads = replace(self.reloads, applied=self.reloads.applied + 1, at=time.time())
        return config

    def _refuse(self, why: str) -> None:
        self.reloads = replace(self.reloads, refused=self.reloads.refused + 1)
        self._note(EventKind.CONFIG_REFUSED, why)

    def _note(self, kind: EventKind, reason: str) -> None:
        more = "" if len(reason) <= MOST_CHARACTERS else " ..."
        reason = reason[:MOST_CHARACTERS] + more
        self._tell(FleetEvent(at=time.time(), kind=kind, reason=reason, fields=(("file", str(self._path)),)))

    def _content(self) -> bytes | None:
        try:
            return self._path.read_bytes() if self._path is not None else None
        except OSError:
            return None


def fixed_changes(old: DualMapConfig, new: DualMapConfig) -> list[str]:
    """A line for each setting that differs and cannot change while the deployment runs."""
    before, after = dict(_settings(old.model_dump())), dict(_settings(new.model_dump()))
    lines = []
    counts = set(_live_counts(old, new))
    for name in sorted(before.keys() | after.keys()):
        was, is_now = before.get(name, "not set"), after.get(name, "not set")
        if was != is_now and not LIVE.match(name) and name not in counts:
            lines.append(f"{name} cannot change while it runs: {was} -> {is_now}")
    if new.gateway.picker is not None and old.limits != new.limits:
        lines.append("the limits of a picker cannot change while it runs")
    pools, others = old.all_pools(), new.all_pools()
    for name in sorted(pools.keys() ^ others.keys()):
        lines.append(f"pool {name or '(the first)'} cannot come or go while it runs")
    known = {
        member.id: (name, member)
        for name, pool in pools.items()
        for instance in pool.instances
        for member in instance.members
    }
    for name, pool in others.items():
        settings = pools.get(name, pool).scheduler
        if settings != pool.scheduler and settings.policy != "dualmap":
            lines.append(f"the policy {settings.policy} takes no other settings while it runs")
        for member in (member for instance in pool.instances for member in instance.members):
            was_in, was = known.get(member.id, (name, member))
            if (was_in, was.model_copy(update=member.purpose)) != (name, member):
                lines.append(f"{member.id} is known already: remove it, and add it with other settings later")
    if find_spec("kr8s") is None and any(pool.discovery for pool in others.values()):
        lines.append("discovery needs more packages: pip install 'dualmap[kubernetes]'")
    return lines


def live_changes(old: DualMapConfig, new: DualMapConfig) -> Iterator[str]:
    """What differs, for people: each setting with what it was and what it is; of instances, which came and went, and
    which are there for something else."""
    before, after = dict(_settings(old.model_dump())), dict(_settings(new.model_dump()))
    pools, others = old.all_pools(), new.all_pools()
    for name in pools.keys() & others.keys():
        was, is_now = ({m.id: m for i in known[name].instances for m in i.members} for known in (pools, others))
        changes = [f"+{i}" for i in sorted(is_now.keys() - was)] + [f"-{i}" for i in sorted(was.keys() - is_now)]
        for i in sorted(was.keys() & is_now):
            pairs = zip(was[i].purpose.items(), is_now[i].purpose.values(), strict=True)
            changes += [f"{i} {key}: {old or NONE} -> {new or NONE}" for (key, old), new in pairs if old != new]
        if changes:
            yield f"{f'pools.{name}.' if name else ''}instances: {' '.join(changes)}"
    for name in sorted(before.keys() | after.keys()):
        was, is_now = before.get(name, "not set"), after.get(name, "not set")
        if was != is_now and name.rpartition(".")[2] != "instances":
            yield f"{name}: {was} -> {is_now}"


def _live_counts(old: DualMapConfig, new: DualMapConfig) -> Iterator[str]:
    """Numbers of instances that are started here, where they are not those of the beginning only."""
    pools = new.all_pools()
    for name, pool in old.all_pools().items():
        other = pools.get(name, pool)
        if pool.scaling is None and other.scaling is None and all(pool.replicas.values()):
            for kind in _counts_of(pool.replicas.keys() & other.replicas.keys(), bool(pool.vllm.model)):
                yield f"pools.{name}.{kind}" if name else kind


def _counts_of(roles: Iterable[Role], of_vllm: bool) -> Iterator[str]:
    """Where their numbers stand in a pool's settings."""
    for role in roles:
        if role is Role.BOTH:
            yield "vllm.replicas" if of_vllm else "simulate.count"
        else:
            yield f"vllm.{role}.replicas" if of_vllm else f"simulate.{role}"


def _settings(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Each setting by its path; those within a list are one."""
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _settings(value, f"{prefix}{name}.")
        elif hasattr(value, "__dataclass_fields__"):
            yield from _settings({f: getattr(value, f) for f in value.__dataclass_fields__}, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
