"""What the Autoscaler of a pool is told when the file changes, without one."""

from typing import Any

from dualmap.router.config.config import DualMapConfig
from dualmap.router.deployment.instances import NoInstances
from dualmap.router.deployment.scaled_pools import ScaledPools
from tests.router.deployment.answered import Answered

IDS = ("sim-prefill-0", "sim-prefill-1", "sim-decode-0")


class Autoscaler:
    """told: the numbers, as it was told them. It wants what there was."""

    def __init__(self) -> None:
        self.told: list[dict[str, int]] = []

    def call(self, method: str, *arguments: Any) -> Answered:
        if method == "scale":
            self.told.append(arguments[0])
        return Answered(arguments[0])

    def kill(self) -> None:
        """Nothing."""


def simulated(prefill: int, decode: int) -> DualMapConfig:
    return DualMapConfig.model_validate({"simulate": {"prefill": prefill, "decode": decode}})


def test_a_role_whose_number_in_the_file_stays_keeps_the_number_that_a_person_has_said():
    autoscaler = Autoscaler()
    pools = ScaledPools(simulated(2, 1), NoInstances(), 0.0, lambda line: None)
    pools.add("", IDS, autoscaler)
    pools.take_over(simulated(3, 1))
    pools.round()
    pools.round()
    assert autoscaler.told == [{"prefill": 3}]
    pools.take_over(simulated(4, 1))
    pools.take_over(simulated(4, 2))  # before the first is told
    pools.round()
    pools.round()
    assert autoscaler.told[1:] == [{"prefill": 4, "decode": 2}]
