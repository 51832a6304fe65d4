"""What of a prompt lies in tiers behind the instances' pools, and what loading it costs (scheduler/tiers.py)."""

import random

import pytest

from dualmap.scheduler import Request, tiers
from dualmap.scheduler.instance.pace import FleetPace, PrefillSpeed
from dualmap.scheduler.tiers import FIRST_SHARES, MOST_CHANGE, TIERS, Loads, Tiers, forget_first, tier_of

CPU, STORAGE, REMOTE = range(len(TIERS))
BLOCKS = (1, 2, 3, 4, 5, 6, 7, 8)
TOKEN_S = 0.001


def request(tokens: int = 850, blocks: tuple[int, ...] = BLOCKS) -> Request:
    return Request("r", blocks, tokens, block_tokens=100)


def loads_of(
    slow: dict[int, int], pool_tokens: int = 0, shared: dict[int, int] | None = None, **fields
) -> Loads | None:
    known = Tiers()
    known.shares = [0.1, 0.4, 1.0]
    for block, tier in (shared or {}).items():
        known.share([block], tier, "v1")
    return known.loads(request(**fields), pool_tokens, {block: 1 << tier for block, tier in slow.items()}, "v1", 512)


@pytest.mark.parametrize(
    ("loads", "expected"),
    [
        (loads_of({}), None),
        (loads_of({2: CPU}), None),  # its first block is nowhere
        (loads_of({1: CPU, 2: CPU, 4: CPU}), (200, (("cpu", 200),), 20)),
        (loads_of({2: CPU, 3: STORAGE}, 100), (300, (("cpu", 100), ("storage", 100)), 50)),
        (loads_of({1: CPU}, 800), None),
        (loads_of({8: CPU}, 700), (800, (("cpu", 100),), 10)),
        (loads_of({8: CPU}, 700, tokens=800), (799, (("cpu", 99),), 9)),  # the last token is always computed
        (loads_of({}, 799, tokens=800), None),
        (loads_of({1: STORAGE}, shared={1: CPU, 2: REMOTE}), (200, (("cpu", 100), ("remote", 100)), 110)),
    ],
)
def test_what_follows_on_the_pool_is_loaded_from_the_fastest_tier_that_has_it(loads, expected):
    found = loads and (loads.cached_tokens, loads.tokens, loads.work_tokens)
    assert found == expected


def test_a_token_to_load_is_worth_what_it_spares():
    loads = loads_of({2: STORAGE, 3: STORAGE}, 100)
    assert (loads.pool_tokens, loads.worth_tokens) == (100, 100 + 200 - 80)


def test_an_unknown_tier_is_taken_for_the_slowest():
    assert [tier_of(name) for name in (*TIERS, "cxl", "")] == [CPU, STORAGE, REMOTE, REMOTE, REMOTE]
    assert list(FIRST_SHARES) == sorted(FIRST_SHARES)


def test_a_shared_block_is_there_until_no_tier_has_it():
    known = Tiers()
    known.share(BLOCKS, CPU, "")
    known.share((1, 2), REMOTE, "")
    known.unshare((1, 3, 99), CPU, "")
    assert known.shared[""][1] == 1 << REMOTE
    assert 3 not in known.shared[""]
    known.unshare((1,), REMOTE, "")
    assert 1 not in known.shared[""]


def test_what_one_revision_has_stored_no_other_reads():
    known = Tiers()
    for number in range(tiers.MAX_REVISIONS + 1):
        known.share(BLOCKS, CPU, f"v{number}")
    found = [known.loads(request(), 0, {}, f"v{number}", 512) is not None for number in range(-1, 6)]
    assert found == [False, False, True, True, True, True, False]
    known.unshare(BLOCKS, CPU, "v3")
    assert known.loads(request(), 0, {}, "v3", 512) is None


def test_of_a_store_that_drops_nothing_what_was_stored_first_is_forgotten():
    known = Tiers(most_shared_blocks=4)
    known.share((1, 2, 3, 4), CPU, "")
    known.share((1,), CPU, "")
    known.share((5,), CPU, "")
    assert list(known.shared[""]) == [3, 4, 1, 5]


# What is learned.


class Instance:
    """Prompts one after the other on an instance. share: of a token's time to compute it, what loading it takes."""

    def __init__(self, share: float, tier: int = CPU) -> None:
        self.tiers = Tiers()
        self.speed = PrefillSpeed(1 / TOKEN_S, FleetPace(self.tiers))
        self.share = share
        self._tier = tier
        self._now = 0.0

    def run(self, computed: int, loaded: int, also_s: float = 0.0, beside: int = 0) -> None:
        """also_s: what else it takes. beside: tokens of another prompt that are computed before."""
        self.speed.starts(self._now)
        dispatched_at, before = self._now, self.speed.computed_tokens
        if beside:
            self._now += beside * TOKEN_S
            self.speed.observe(beside, self._now)
        self._now += (computed + loaded * self.share) * TOKEN_S + also_s
        loads = None
        if loaded:
            work = int(loaded * self.tiers.shares[self._tier])
            loads = Loads(loaded, ((TIERS[self._tier], loaded),), work_tokens=work)
        self.speed.observe(computed + (loads.work_tokens if loads else 0), self._now, loads)
        if loads:
            waited_tokens = (self._now - dispatched_at) / self.speed.seconds_per_token
            self.tiers.learn(loads, waited_tokens, self.speed.computed_tokens - before)
        self._now += 1.0

    @property
    def learned(self) -> float:
        return self.tiers.shares[self._tier]


@pytest.mark.parametrize("tier", [CPU, STORAGE, REMOTE])
@pytest.mark.parametrize("share", [0.004, 0.03, 0.2, 0.7])
def test_the_cost_of_loading_is_learned_from_prompts_that_load(share: float, tier: int):
    instance = Instance(share, tier)
    rng = random.Random(1)
    for _ in range(100):
        instance.run(rng.randrange(100, 2000), rng.choice((0, 8000, 16_000)))
    assert instance.learned == pytest.approx(share, rel=0.05)
    assert instance.speed.seconds_per_token == pytest.approx(TOKEN_S, rel=0.01)


@pytest.mark.parametrize("also_s", [60.0, -7.0])
def test_a_few_bad_samples_do_not_turn_it_over(also_s: float):
    instance = Instance(0.1)
    for _ in range(50):
        instance.run(500, 8000)
    for _ in range(3):
        instance.run(500, 80_000 if also_s < 0 else 8000, also_s)
    assert 0.1 / MOST_CHANGE**3.01 <= instance.learned <= 0.1 * MOST_CHANGE**3.01
    for _ in range(5):
        instance.run(500, 8000)
    assert instance.learned == pytest.approx(0.1, rel=0.01)


@pytest.mark.parametrize(("share", "learned"), [(3.0, 1.0), (0.0, tiers.LEAST_SHARE)])
def test_loading_never_counts_as_more_than_computing_nor_as_nothing(share: float, learned: float):
    instance = Instance(share)
    for _ in range(100):
        instance.run(100, 8000)
    assert instance.learned == learned


def test_what_others_compute_meanwhile_is_no_part_of_it():
    instance = Instance(0.1)
    for _ in range(60):
        instance.run(200, 8000, beside=3000)
    assert instance.learned == pytest.approx(0.1, rel=0.05)
    assert instance.speed.seconds_per_token == pytest.approx(TOKEN_S, rel=0.01)


def test_of_two_tiers_the_one_with_more_to_load_is_learned():
    known = Tiers()
    known.shares = [0.1, 0.4, 1.0]
    loads = Loads(9000, (("cpu", 3000), ("storage", 6000)), work_tokens=2700)
    for _ in range(100):
        known.learn(loads, 200 + 3000 * 0.1 + 6000 * 0.2, 200)
    assert known.shares == [0.1, pytest.approx(0.2), 1.0]


@pytest.mark.parametrize(("computed", "loaded"), [(8000, 4000), (100, 1500)])
def test_loading_that_is_little_beside_what_is_computed_or_at_all_tells_nothing(computed: int, loaded: int):
    instance = Instance(0.9)
    for _ in range(50):
        instance.run(computed, loaded)
    assert instance.learned == FIRST_SHARES[CPU]
    assert instance.speed.seconds_per_token == TOKEN_S


def test_a_prompt_of_which_hardly_anything_is_loaded_tells_how_fast_the_instance_is():
    instance = Instance(0.03)
    for _ in range(100):
        instance.run(8000, 512, also_s=8.0)
    assert instance.speed.seconds_per_token == pytest.approx(2 * TOKEN_S, rel=0.05)


def test_of_too_many_blocks_those_that_came_first_are_forgotten_some_at_a_time() -> None:
    blocks = dict.fromkeys(range(640))
    forget_first(blocks, 631)
    assert len(blocks) == 640, "a few more are no matter"
    forget_first(blocks, 600)
    assert list(blocks) == list(range(40, 640))
