"""dualmap_paper: DualMap as published."""

from dualmap.scheduler import SchedulerConfig
from dualmap.scheduler.policies.dualmap_paper import HOT_SHARE, WINDOW, PaperKeys, as_published
from dualmap.scheduler.request import ChoiceReason


def test_a_key_is_one_block_until_its_share_of_the_window_is_hot():
    keys = PaperKeys()
    hot_after = int(HOT_SHARE * WINDOW)
    assert [keys.observe((1, i)) for i in range(100, 100 + hot_after)] == [1] * hot_after
    assert keys.observe((1, 999)) == 999


def test_a_key_grows_block_by_block_while_what_it_names_is_hot():
    keys = PaperKeys()
    seen = [keys.observe((1, 2, 3, 4)) for _ in range(60)]
    assert list(dict.fromkeys(seen)) == [1, 2, 3, 4]
    assert keys.observe((1, 7, 8)) == 7


def test_a_key_shrinks_when_its_requests_have_left_the_window():
    keys = PaperKeys()
    for _ in range(50):
        keys.observe((1, 2, 3))
    for i in range(WINDOW):
        keys.observe((1000 + i,))
    assert keys.observe((1, 2, 3)) == 1
    assert len(keys) <= WINDOW * 3


def test_the_warm_candidate_is_kept_up_to_half_the_slo_and_the_sooner_one_taken_beyond(script):
    core = script(*"abcdefgh", policy="dualmap_paper", ttft_slo_s=4.0)
    blocks = core.prompt("c", "f", blocks=2)
    core.arrive("r0", 1024, blocks=blocks)
    warm = core.attempt("r0").instance_id
    core.arrive("r1", 1024 + 900, blocks=(*blocks, 7, 8))  # 1.024 s ahead and 0.9 s of its own
    assert (core.attempt("r1").instance_id, core.attempt("r1").reason) == (warm, ChoiceReason.WARM)
    core.arrive("r2", 1024 + 200, blocks=(*blocks, 9))  # 2.1 s there, 1.2 s at the other
    assert core.attempt("r2").instance_id == ({"c", "f"} - {warm}).pop()
    assert core.attempt("r2").reason is ChoiceReason.SWITCHED


def test_a_prefix_cached_at_neither_goes_to_the_sooner_candidate(script):
    core = script(*"abcdefgh", policy="dualmap_paper")
    blocks = core.prompt("c", "f", blocks=1)
    other = core.prompt("c", "f", blocks=1, other_than=1)
    core.arrive("r0", 500, blocks=blocks)
    core.arrive("r1", 500, blocks=other)
    assert {core.attempt("r0").instance_id, core.attempt("r1").instance_id} == {"c", "f"}
    assert core.attempt("r1").reason is ChoiceReason.BALANCED


def test_requests_are_held_in_the_gateway_unless_that_is_switched_off(script):
    held = script("a", policy="dualmap_paper", capacity={"max_running": 2})
    sent = script("a", policy="dualmap_paper", gateway_queue=False, capacity={"max_running": 2})
    for core, waiting in ((held, 8), (sent, 0)):
        for i in range(10):
            core.arrive(f"r{i}", 5000)
        assert core.view("a").waiting_count >= waiting
        assert bool(core.view("a").waiting_count) is bool(waiting)


def test_what_the_core_adds_is_off_as_published():
    config = as_published(SchedulerConfig(policy="dualmap_paper", ttft_slo_s=3.0))
    assert (config.ttft_slo_s, config.policy, config.hot_slo_fraction) == (3.0, "dualmap_paper", 0.5)
    assert (config.recompute_price_idle, config.recompute_price_busy) == (0.0, 0.0)
    assert (config.deadline_order, config.taking, config.rebalancing) == (False, False, True)
