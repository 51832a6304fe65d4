"""instances/simulated/engine.py: prompts that another instance has computed, and blocks that are kept for another one.
Blocks are of 4 tokens, the pool has 16, a step 16 tokens at 0.1 s each."""

import pytest

from dualmap.instances.simulated.engine_profile import EngineProfile
from dualmap.instances.simulated.leases import LEASE_S
from dualmap.instances.simulated.transfer_link import TransferLink

SHARED = (1, 2, 3)


def load(engine) -> list[tuple[str, int]]:
    """Start what is waiting, where nothing can be computed yet."""
    assert engine.engine.start_step(engine.now) is None
    return engine.engine.take_loads()


def test_of_a_loaded_prompt_one_token_is_computed(stepped) -> None:
    engine = stepped()
    engine.add("decode", 14, 3, loads=True)
    assert load(engine) == [("decode", 14)]
    assert engine.engine.kv_usage == 4 / 16
    assert (engine.engine.running, engine.engine.waiting) == (0, 1)
    assert engine.engine.loaded("decode")
    assert engine.step() == pytest.approx(0.1)
    assert engine.first["decode"].cached_tokens == 14
    engine.run()
    assert engine.tokens["decode"] == 3


def test_what_is_cached_is_not_loaded(stepped) -> None:
    engine = stepped()
    engine.add("before", 13, blocks=SHARED)
    engine.run()
    engine.add("decode", 14, blocks=SHARED, loads=True)
    assert load(engine) == [("decode", 2)]
    counters = engine.engine.counters
    assert (counters.prefix_cache_hits, counters.external_prefix_cache_hits) == (12, 2)


def test_a_loaded_prompt_is_cached(stepped) -> None:
    engine = stepped()
    engine.add("decode", 12, blocks=SHARED, loads=True)
    load(engine)
    engine.engine.loaded("decode")
    engine.run()
    engine.add("after", 13, blocks=SHARED)
    engine.run()
    assert engine.first["after"].cached_tokens == 12


def test_others_go_on_while_a_prompt_is_loaded(stepped) -> None:
    engine = stepped()
    engine.add("decode", 14, 1, loads=True)
    engine.add("other", 8, 2)
    engine.step()
    assert engine.engine.take_loads() == [("decode", 14)]
    engine.run()
    assert set(engine.finished) == {"other"}


def test_what_is_loaded_goes_before_what_waits_for_its_blocks(stepped) -> None:
    engine = stepped()
    engine.add("decode", 40, 2, loads=True)
    load(engine)
    engine.add("urgent", 40, 2, priority=-1)
    assert load(engine) == []
    engine.engine.loaded("decode")
    engine.run()
    assert engine.finished["decode"].finished_s < engine.finished["urgent"].first_token_s


@pytest.mark.parametrize("when", ["loading", "loaded", "running"])
def test_a_request_that_loads_can_be_aborted(stepped, when: str) -> None:
    engine = stepped()
    engine.add("decode", 14, 3, loads=True)
    load(engine)
    if when != "loading":
        engine.engine.loaded("decode")
    if when == "running":
        engine.step()
    assert engine.engine.abort("decode")
    assert not engine.engine.loaded("decode")
    assert (engine.engine.kv_usage, engine.engine.running, engine.engine.waiting) == (0, 0, 0)


def test_a_loaded_request_that_is_preempted_is_computed_again(stepped) -> None:
    engine = stepped()
    engine.add("first", 28, 20)
    engine.step()
    engine.add("decode", 28, 12, loads=True)
    engine.step()
    engine.engine.take_loads()
    engine.engine.loaded("decode")
    engine.run()
    assert engine.engine.counters.preemptions == 1
    assert engine.engine.take_loads() == []
    assert engine.tokens == {"first": 20, "decode": 12}


def test_what_is_loaded_starts_when_the_last_one_that_ran_is_preempted(stepped) -> None:
    engine = stepped(max_num_seqs=1)
    engine.add("first", 39, 24, loads=True)
    engine.add("second", 4, 1, loads=True)
    assert load(engine) == [("first", 39), ("second", 4)]
    engine.engine.loaded("first")
    engine.engine.loaded("second")
    engine.run()
    assert engine.engine.counters.preemptions == 1
    assert engine.tokens == {"first": 24, "second": 1}


def test_lent_blocks_are_held_until_they_are_given_back(stepped) -> None:
    engine = stepped()
    engine.add("prefill", 14, lends=True)
    engine.run()
    assert engine.finished["prefill"].lent_blocks == 4
    assert engine.engine.kv_usage == 4 / 16
    assert engine.engine.leases.give_back("prefill")
    assert not engine.engine.leases.give_back("prefill")
    assert engine.engine.kv_usage == 0


def test_an_aborted_request_lends_nothing(stepped) -> None:
    engine = stepped()
    engine.add("prefill", 14, lends=True)
    engine.step()
    engine.add("another", 14, 5, lends=True)
    engine.step()
    engine.engine.abort("another")
    assert len(engine.engine.leases) == 1


def test_a_lease_ends_by_itself_unless_it_is_extended(stepped) -> None:
    engine = stepped()
    leases = engine.engine.leases
    for name in ("kept", "forgotten"):
        engine.add(name, 6, lends=True)
    engine.run()
    assert leases.extend("kept", engine.now + LEASE_S - 1)
    assert leases.expire(engine.now + LEASE_S - 1) == 0
    assert leases.expire(engine.now + LEASE_S) == 1
    assert not leases.extend("forgotten", engine.now + LEASE_S)
    assert engine.engine.kv_usage == 2 / 16
    assert leases.expire(engine.now + 2 * LEASE_S) == 1


def test_a_request_waits_for_blocks_that_are_lent(stepped) -> None:
    engine = stepped()
    engine.add("prefill", 40, lends=True)
    engine.run()
    engine.add("next", 40)
    assert load(engine) == []
    engine.engine.leases.give_back("prefill")
    engine.run()
    assert "next" in engine.finished


def test_prompts_share_the_readers_link() -> None:
    link = TransferLink(EngineProfile(transfer_s_per_token=0.01, transfer_latency_s=1.0))
    assert link.arrives_s(100, 0.0) == 2.0
    assert link.arrives_s(50, 0.5) == 2.5
    assert link.arrives_s(100, 10.0) == 12.0
