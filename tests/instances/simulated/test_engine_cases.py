"""The engine's scheduling, one hand-made case a rule. Blocks are of 4 tokens, the pool has 16, a step 16 tokens."""

import pytest

SYSTEM = (1, 2, 3)  # three blocks that several prompts begin with


def test_a_cached_prefix_is_not_computed_again(stepped) -> None:
    engine = stepped()
    engine.add("first", 14, blocks=SYSTEM)
    assert engine.step() == pytest.approx(1.4)
    engine.add("second", 14, blocks=SYSTEM)
    assert engine.step() == pytest.approx(0.2)
    assert (engine.first["first"].cached_tokens, engine.first["second"].cached_tokens) == (0, 12)


def test_the_last_token_of_a_prompt_is_always_computed(stepped) -> None:
    engine = stepped()
    engine.add("first", 12, blocks=SYSTEM)
    engine.run()
    engine.add("second", 12, blocks=SYSTEM)
    assert engine.step() == pytest.approx(0.4)
    assert engine.first["second"].cached_tokens == 8


def test_two_requests_in_one_step_do_not_yet_share_what_neither_has_computed(stepped) -> None:
    engine = stepped()
    engine.add("first", 8, blocks=SYSTEM)
    engine.add("second", 8, blocks=SYSTEM)
    assert engine.step() == pytest.approx(1.6)
    assert engine.first["second"].cached_tokens == 0


def test_generated_blocks_are_hit_by_the_next_turn(stepped) -> None:
    engine = stepped()
    engine.add("turn1", 6, 7, blocks=SYSTEM)  # 13 tokens, the last of which is never computed
    engine.run()
    engine.add("turn2", 16, blocks=SYSTEM)
    engine.run()
    assert engine.first["turn2"].cached_tokens == 12


def test_a_long_prompt_shares_its_steps_with_decodes(stepped) -> None:
    engine = stepped()
    engine.add("decoding", 4, 10)
    engine.step()
    engine.add("long", 40)
    durations = [engine.step() for _ in range(3)]
    assert durations == pytest.approx([1.5, 1.5, 1.0])  # 15, 15 and 10 tokens beside one decode
    assert engine.tokens["decoding"] == 4
    assert "long" in engine.first


def test_several_prompts_fill_one_step(stepped) -> None:
    engine = stepped()
    for name in "abc":
        engine.add(name, 7)
    assert engine.step() == pytest.approx(1.6)
    assert set(engine.first) == {"a", "b"}
    assert engine.step() == pytest.approx(0.5)


def test_no_more_run_than_the_limit(stepped) -> None:
    engine = stepped(max_num_seqs=2)
    for name in "abc":
        engine.add(name, 2, 3)
    engine.step()
    assert (engine.engine.running, engine.engine.waiting) == (2, 1)


def test_a_request_waits_until_its_whole_prompt_fits(stepped) -> None:
    engine = stepped()
    engine.add("large", 48, 8)  # 12 blocks, 2 more while it decodes
    for _ in range(3):
        engine.step()
    engine.add("next", 20)  # 5 blocks
    engine.step()
    assert (engine.engine.running, engine.engine.waiting) == (1, 1)
    engine.run()
    assert engine.finished["next"].started_s == engine.finished["large"].finished_s


def test_nobody_overtakes_the_head_of_the_queue(stepped) -> None:
    engine = stepped()
    engine.add("large", 48, 8)
    for _ in range(3):
        engine.step()
    engine.add("next", 20)
    engine.add("small", 4)
    engine.step()
    assert engine.engine.waiting == 2


def test_the_least_recently_used_prefix_makes_room(stepped) -> None:
    engine = stepped()
    for name in ("old", "used again"):
        engine.add(name, 25)
        engine.run()
    engine.add("reader", 25, blocks=[own_block("used again", i) for i in range(6)])
    engine.run()
    engine.add("large", 40)
    engine.run()
    cached = [len(engine.engine.pool.match([own_block(name, i) for i in range(6)])) for name in ("old", "used again")]
    assert cached == [0, 6]


def test_the_tail_of_a_prefix_makes_room_before_its_beginning(stepped) -> None:
    engine = stepped()
    engine.add("old", 48, blocks=SYSTEM)
    engine.run()
    engine.add("large", 44)  # 11 blocks: 4 never used, 7 of the old ones
    engine.run()
    engine.add("probe", 14, blocks=SYSTEM)
    engine.run()
    assert engine.first["probe"].cached_tokens == 12


def test_when_blocks_run_out_the_last_arrived_is_preempted_and_computed_again(stepped) -> None:
    engine = stepped()
    engine.add("first", 28, 20)
    engine.add("second", 28, 20)
    engine.run()
    assert engine.tokens == {"first": 20, "second": 20}
    assert engine.engine.counters.preemptions == 1
    assert engine.finished["first"].finished_s < engine.finished["second"].finished_s
    # The second waited in the middle of its answer, and what it had lost by then was computed again.
    assert engine.now > 5.6 + 0.01 * 20
    waits_s = [request.finished_s - request.first_token_s for request in engine.finished.values()]
    assert engine.gaps_s == pytest.approx(sum(waits_s))


def test_a_step_that_takes_blocks_away_starts_nothing(stepped) -> None:
    def loaded():
        engine = stepped()
        for name in ("first", "second"):
            engine.add(name, 28, 20)
        return engine

    rehearsal, engine = loaded(), loaded()
    rehearsal.step()
    while not rehearsal.engine.counters.preemptions:
        engine.step()
        rehearsal.step()
    engine.add("small", 4, priority=-1)
    engine.step()
    assert (engine.engine.counters.preemptions, engine.engine.running, engine.engine.waiting) == (1, 1, 2)
    engine.step()
    assert "small" in engine.first


def test_the_less_urgent_is_preempted_whenever_it_came(stepped) -> None:
    engine = stepped()
    engine.add("batch", 28, 20, priority=5)
    engine.add("chat", 28, 20, priority=0)
    engine.run()
    assert engine.finished["chat"].finished_s < engine.finished["batch"].finished_s
    assert engine.tokens == {"batch": 20, "chat": 20}


def test_lower_priorities_start_first_and_equal_ones_by_arrival(stepped) -> None:
    engine = stepped(max_num_seqs=1)
    for name, priority in (("late", 1), ("first", 0), ("urgent", -1), ("second", 0)):
        engine.add(name, 4, priority=priority)
    engine.run()
    assert list(engine.finished) == ["urgent", "first", "second", "late"]


@pytest.mark.parametrize("steps", [0, 1, 2, 5], ids=["waiting", "prefilling", "prefilling on", "decoding"])
@pytest.mark.parametrize("in_step", [False, True], ids=["between steps", "in a step"])
def test_an_abort_frees_everything_at_once(stepped, steps: int, in_step: bool) -> None:
    engine = stepped()
    engine.add("gone", 40, 20)
    for _ in range(steps):
        engine.step()
    ends_at = engine.engine.start_step(engine.now) if in_step else None
    assert engine.engine.abort("gone")
    assert (engine.engine.kv_usage, engine.engine.running, engine.engine.waiting) == (0.0, 0, 0)
    assert not engine.engine.abort("gone")
    if ends_at is not None:
        engine.end_step(ends_at)
    assert engine.engine.start_step(engine.now) is None
    assert not engine.finished


def test_what_an_aborted_request_has_computed_stays_cached(stepped) -> None:
    engine = stepped()
    engine.add("gone", 14, 5, blocks=SYSTEM)
    engine.step()
    engine.engine.abort("gone")
    engine.add("next", 14, blocks=SYSTEM)
    engine.run()
    assert engine.first["next"].cached_tokens == 12


def test_decoding_slows_down_with_batch_and_context(stepped) -> None:
    priced = {"decode_s_per_seq": 0.001, "decode_s_per_context_token": 0.0001}
    one, two, longer = (stepped(**priced) for _ in range(3))
    one.add("a", 4, 9)
    two.add("a", 4, 9)
    two.add("b", 4, 9)
    longer.add("a", 12, 9)
    for engine in (one, two, longer):
        engine.step()
    assert [engine.step() for engine in (one, two, longer)] == pytest.approx([0.0114, 0.0128, 0.0122])
    assert one.step() == pytest.approx(0.0115)


def test_token_gaps_are_told_once_a_step_with_the_number_of_tokens(stepped) -> None:
    engine = stepped()
    for name in ("a", "b"):
        engine.add(name, 4, 3)
    engine.step()
    ends_at = engine.engine.start_step(engine.now)
    assert engine.engine.finish_step(ends_at).token_gaps_s == [(pytest.approx(0.01), 2)]


def test_times_are_told_from_arrival_to_the_last_token(stepped) -> None:
    engine = stepped(max_num_seqs=1)
    engine.add("before", 10)
    engine.add("asked", 5, 3)
    engine.run()
    asked = engine.finished["asked"]
    times = [asked.arrived_s, asked.started_s, asked.first_token_s, asked.finished_s]
    assert times == pytest.approx([0.0, 1.0, 1.5, 1.52])


def test_counters_are_those_of_vllm(stepped) -> None:
    engine = stepped()
    engine.add("first", 14, 3, blocks=SYSTEM)
    engine.run()
    engine.add("second", 14, 2, blocks=SYSTEM)
    engine.run()
    counters = engine.engine.counters
    assert (counters.prompt_tokens, counters.generation_tokens) == (28, 5)
    assert (counters.prefix_cache_queries, counters.prefix_cache_hits) == (28, 12)


@pytest.mark.parametrize(
    ("name", "prompt", "output", "message"),
    [
        ("new", 0, 1, "at least 1"),
        ("new", 1, 0, "at least 1"),
        ("new", 60, 5, "at most 64 tokens together"),
        ("taken", 4, 4, "is in use"),
    ],
)
def test_a_request_that_cannot_run_is_refused(stepped, name: str, prompt: int, output: int, message: str) -> None:
    engine = stepped()
    engine.add("taken", 4)
    with pytest.raises(ValueError, match=message):
        engine.add(name, prompt, output)
    assert engine.engine.waiting == 1


def test_steps_come_one_after_the_other(stepped) -> None:
    engine = stepped()
    assert engine.engine.start_step(0.0) is None
    with pytest.raises(RuntimeError, match="no step is running"):
        engine.engine.finish_step(0.0)
    engine.add("a", 4)
    engine.engine.start_step(0.0)
    with pytest.raises(RuntimeError, match="a step is running"):
        engine.engine.start_step(0.0)


def own_block(request_id: str, index: int) -> int:
    """The hash that `stepped` gives to a request's own block."""
    return int.from_bytes(request_id.encode()) * 1000 + index


# The tier behind the pool.


@pytest.mark.parametrize(("offload_tokens", "cached", "first_step_s"), [(0, 0, 1.4), (128, 12, 0.2), (8, 0, 1.4)])
def test_a_prefix_that_the_pool_has_evicted_is_read_back_from_the_tier(
    stepped, offload_tokens: int, cached: int, first_step_s: float
) -> None:
    engine = stepped(offload_tokens=offload_tokens)
    engine.add("first", 14, blocks=SYSTEM)
    engine.run()
    engine.add("large", 63)  # takes all 16 blocks
    engine.run()
    assert engine.engine.pool.match(SYSTEM) == []
    engine.add("second", 14, blocks=SYSTEM)
    assert engine.step() == pytest.approx(first_step_s)
    assert engine.first["second"].cached_tokens == cached
    counters = engine.engine.counters
    assert (counters.prefix_cache_hits, counters.external_prefix_cache_hits) == (0, cached)


def test_what_was_read_back_can_be_hit_in_the_pool(stepped) -> None:
    engine = stepped(offload_tokens=128)
    for name, prompt in (("first", 14), ("large", 63)):
        engine.add(name, prompt, blocks=SYSTEM if name == "first" else ())
        engine.run()
    engine.add("second", 14, blocks=SYSTEM)
    engine.run()
    assert engine.first["second"].cached_tokens == 12
    assert len(engine.engine.pool.match(SYSTEM)) == 3
    engine.add("third", 14, blocks=SYSTEM)
    engine.run()
    assert engine.first["third"].cached_tokens == 12


def test_a_prefix_may_be_found_in_the_pool_and_its_rest_in_the_tier(stepped) -> None:
    engine = stepped(offload_tokens=256)
    engine.add("first", 14, blocks=SYSTEM)
    engine.run()
    pool = engine.engine.pool
    taken = pool.allocate(16 - 2)  # all but the first two blocks of the prefix
    assert len(pool.match(SYSTEM)) == 2
    pool.release(taken)
    engine.add("second", 14, blocks=SYSTEM)
    engine.run()
    assert engine.first["second"].cached_tokens == 12


def test_reading_back_takes_its_time_and_holds_up_nobody_else(stepped) -> None:
    engine = stepped(offload_tokens=128, offload_s_per_token=0.5)
    for name, prompt in (("first", 14), ("large", 63)):
        engine.add(name, prompt, blocks=SYSTEM if name == "first" else ())
        engine.run()
    engine.add("second", 14, blocks=SYSTEM)
    engine.add("third", 14, blocks=SYSTEM)
    engine.add("other", 8)
    started_s = engine.now
    assert engine.step() == pytest.approx(0.8)  # the other's prompt alone
    assert engine.engine.waiting == 2
    assert engine.engine.start_step(engine.now) is None
    assert engine.engine.next_read_s == pytest.approx(started_s + 6.0)
    engine.now = engine.engine.next_read_s
    assert engine.step() == pytest.approx(0.2)
    assert engine.first["second"].cached_tokens == 12
    assert "third" not in engine.first, "what is read back comes one prompt after the other"
    assert engine.engine.next_read_s == pytest.approx(started_s + 12.0)
    engine.now = engine.engine.next_read_s
    engine.step()
    assert engine.first["third"].cached_tokens == 12
    assert engine.engine.next_read_s is None


def test_a_prompt_that_is_aborted_while_it_is_read_back_leaves_nothing(stepped) -> None:
    engine = stepped(offload_tokens=128, offload_s_per_token=0.5)
    for name, prompt in (("first", 14), ("large", 63)):
        engine.add(name, prompt, blocks=SYSTEM if name == "first" else ())
        engine.run()
    engine.add("second", 14, blocks=SYSTEM)
    assert engine.engine.start_step(engine.now) is None
    assert engine.engine.abort("second")
    assert engine.engine.next_read_s is None
    assert engine.engine.kv_usage == 0
    assert engine.engine.pool.match(SYSTEM) == [], "it was not there yet"


def test_a_reset_of_the_cache_clears_the_tier(stepped) -> None:
    engine = stepped(offload_tokens=64)
    engine.add("first", 14, blocks=SYSTEM)
    engine.run()
    assert engine.engine.pool.reset()
    engine.add("second", 14, blocks=SYSTEM)
    engine.run()
    assert engine.first["second"].cached_tokens == 0


@pytest.mark.parametrize("offload_tokens", [0, 20, 64, 400])
def test_what_was_hit_and_what_was_computed_add_up_to_the_prompts(stepped, offload_tokens: int) -> None:
    engine = stepped(offload_tokens=offload_tokens)
    computed = 0
    prompts = [14, 30, 22, 14, 60, 30, 9, 22, 14, 60, 30]
    for i, prompt in enumerate(prompts):
        family = i % 3
        engine.add(f"r{i}", prompt, blocks=[family * 100 + k for k in range(prompt // 4)])
        while (ends_at := engine.engine.start_step(engine.now)) is not None:
            computed += sum(tokens for _, tokens in engine.engine._chunks)
            engine.end_step(ends_at)
        assert len(engine.engine.pool._offloaded) <= offload_tokens // 4
    counters = engine.engine.counters
    hits = counters.prefix_cache_hits + counters.external_prefix_cache_hits
    assert hits == sum(first.cached_tokens for first in engine.first.values())
    assert hits + computed == sum(prompts) == counters.prompt_tokens
