"""Which depths and homes the gateways use for hot prefixes, so that all of them form the same key for the same prompt:
Fleet watches the prompts that all of them send, and every epoch replaces the one before."""

from collections.abc import Mapping

from dualmap.scheduler.config import SchedulerConfig
from dualmap.scheduler.events import PrefixDepths
from dualmap.scheduler.fleet.member import Member, MemberState
from dualmap.scheduler.fleet.messages import Sent
from dualmap.scheduler.prefix_key import PrefixKeys


class AgreedDepths:
    """adopted: epochs go on from what the gateways have; a Fleet that was restarted must hear of it before it says
    anything."""

    def __init__(self, configs: Mapping[str, SchedulerConfig]) -> None:
        """configs: of each pool."""
        self.epoch = 0
        self._keys = {
            pool: PrefixKeys(config.key_blocks, config.max_key_blocks, adaptive=config.adaptive_key)
            for pool, config in configs.items()
        }
        self._told: dict[str, PrefixDepths] = self._now()

    def adopt(self, epoch: int, depths: dict[str, PrefixDepths]) -> None:
        """What a gateway uses, if that is newer than what is known here."""
        if epoch <= self.epoch:
            return
        self.epoch = epoch
        for pool, agreed in depths.items():
            if (keys := self._keys.get(pool)) is not None:
                keys.depths = dict(agreed.depths)
                keys.homes = dict(agreed.homes)
        self._told = self._now()

    def observe(self, sent: tuple[Sent, ...], members: dict[str, Member]) -> None:
        """Prompts that a gateway has sent."""
        for instance_id, blocks, key_blocks in sent:
            member = members.get(instance_id)
            chain = key_blocks or blocks
            if member is not None and chain and (keys := self._keys.get(member.pool)) is not None:
                keys.observe(chain)

    def resize(self, members: dict[str, Member]) -> None:
        for pool, keys in self._keys.items():
            keys.resize(sum(m.pool == pool and m.state is MemberState.READY for m in members.values()))

    def news(self, known_epoch: int) -> dict[str, PrefixDepths]:
        """All depths, by pool, if they are not those of the epoch known."""
        if self._now() != self._told:
            self.epoch += 1
            self._told = self._now()
        if known_epoch == self.epoch or not self.epoch:
            return {}
        return dict(self._told)

    def _now(self) -> dict[str, PrefixDepths]:
        return {
            pool: PrefixDepths(self.epoch, tuple(keys.depths.items()), tuple(keys.homes.items()))
            for pool, keys in self._keys.items()
        }
