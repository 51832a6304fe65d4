"""Which depths and homes the gateways use for hot prefixes, so that all of them form the same key for the same prompt:
Fleet watches the prompts that all of them send, and every epoch replaces the one before."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

from dualmap.scheduler.config import SchedulerConfig
from dualmap.scheduler.events import PrefixDepths
from dualmap.scheduler.fleet.member import Member, MemberState
from dualmap.scheduler.fleet.messages import Sent
from dualmap.scheduler.prefix_key import PrefixKeys

NOTHING = PrefixDepths(0, ())


class AgreedDepths:
    """adopted: epochs go on from what the gateways have; a Fleet that was restarted must hear of it before it says
    anything."""

    def __init__(self, configs: Mapping[str, SchedulerConfig]) -> None:
        """configs: of each pool."""
        self.epoch = 0
        self._configs = configs
        self._adopted: dict[str, PrefixDepths] = {}  # by pool
        # By pool and the models that instances serve: what is hot is hot among those that can run it.
        self._keys: dict[str, dict[frozenset[str], PrefixKeys]] = {pool: {} for pool in configs}
        self._told: dict[str, PrefixDepths] = self._now()

    def adopt(self, epoch: int, depths: dict[str, PrefixDepths]) -> None:
        """What a gateway uses, if that is newer than what is known here."""
        if epoch <= self.epoch:
            return
        self.epoch = epoch
        self._adopted = {pool: agreed for pool, agreed in depths.items() if pool in self._configs}
        for pool, agreed in self._adopted.items():
            for keys in self._keys[pool].values():
                keys.depths, keys.homes = dict(agreed.depths), dict(agreed.homes)
        self._told = self._now()

    def observe(self, sent: tuple[Sent, ...], members: dict[str, Member]) -> None:
        """Prompts that a gateway has sent."""
        for instance_id, blocks, key_blocks in sent:
            member = members.get(instance_id)
            chain = key_blocks or blocks
            if member is not None and chain and member.pool in self._keys:
                self._keys_of(member).observe(chain)

    def resize(self, members: dict[str, Member]) -> None:
        ready = [m for m in members.values() if m.state is MemberState.READY and m.pool in self._keys]
        counts = Counter((member.pool, _models_of(member)) for member in ready)
        for member in ready:
            self._keys_of(member).resize(counts[member.pool, _models_of(member)])
        for pool in {member.pool for member in ready}:  # one without any instance keeps what is known of it
            self._keys[pool] = {models: keys for models, keys in self._keys[pool].items() if (pool, models) in counts}

    def _keys_of(self, member: Member) -> PrefixKeys:
        of_pool, models = self._keys[member.pool], _models_of(member)
        keys = of_pool.get(models)
        if keys is None:
            config, agreed = self._configs[member.pool], self._adopted.get(member.pool, NOTHING)
            keys = PrefixKeys(config.key_blocks, config.max_key_blocks, adaptive=config.adaptive_key)
            keys.depths, keys.homes = dict(agreed.depths), dict(agreed.homes)
            of_pool[models] = keys
        return keys

    def news(self, known_epoch: int) -> dict[str, PrefixDepths]:
        """All depths, by pool, if they are not those of the epoch known."""
        if self._now() != self._told:
            self.epoch += 1
            self._told = self._now()
        if known_epoch == self.epoch or not self.epoch:
            return {}
        return dict(self._told)

    def _now(self) -> dict[str, PrefixDepths]:
        return {pool: self._of_pool(pool) for pool in self._configs}

    def _of_pool(self, pool: str) -> PrefixDepths:
        if not self._keys[pool]:
            return replace(self._adopted.get(pool, NOTHING), epoch=self.epoch)
        depths: dict[int, int] = {}
        homes: dict[int, int] = {}
        for keys in self._keys[pool].values():
            depths |= keys.depths
            homes |= keys.homes
        return PrefixDepths(self.epoch, tuple(depths.items()), tuple(homes.items()))


def _models_of(member: Member) -> frozenset[str]:
    return frozenset(model.name for model in member.models)
