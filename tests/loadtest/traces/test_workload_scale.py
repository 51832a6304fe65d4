"""Less, faster and more of a workload."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dualmap.loadtest.formats.mooncake import from_trace
from dualmap.loadtest.traces.sessions import SHARED_BRANCHES
from dualmap.loadtest.traces.synth import SynthConfig, synthesise
from dualmap.loadtest.traces.workload import Workload, WorkRequest
from dualmap.loadtest.traces.workload_scale import at_rate, copies, limit, resample_sessions

SYSTEM = 7  # a block that all chats begin with
chats = st.builds(
    lambda seed, turns: from_trace(synthesise(SynthConfig(requests=150, seed=seed)), turns=turns),
    st.integers(0, 20),
    st.booleans(),
)


def request(at_s: float, *blocks: int, session: int = 0, after: int | None = None, think_s: float = 0.0) -> WorkRequest:
    return WorkRequest(at_s, max(len(blocks) * 512, 1), 10, blocks, (), session, after, think_s)


def sessions_of_two_turns(count: int = SHARED_BRANCHES) -> Workload:
    starts = [request(10.0 * i, SYSTEM, 100 + i, session=i) for i in range(count)]
    turns = [request(1000 + i, SYSTEM, 100 + i, 200 + i, session=i, after=i, think_s=5.0) for i in range(count)]
    return Workload("two", starts + turns)


def check(workload: Workload) -> None:
    """What must hold of every workload."""
    latest_s = 0.0
    for index, one in enumerate(workload.requests):
        assert one.arrival_s >= latest_s
        latest_s = one.arrival_s
        assert one.after is None or (
            one.after < index and workload.requests[one.after].session == one.session and one.think_s >= 0
        )
    assert {r.session for r in workload.requests} == set(range(len({r.session for r in workload.requests})))


def distinct_blocks(workload: Workload) -> int:
    return len({block for r in workload.requests for block in r.blocks})


@settings(max_examples=20)
@given(chats, st.integers(1, 5), st.integers(0, 100))
def test_every_result_is_a_workload_and_the_given_one_stays_as_it_was(workload, n, seed):
    before = [(r.arrival_s, r.blocks, r.session, r.after, r.think_s) for r in workload.requests]
    for result in (
        limit(workload, 40 * n, max_prompt_tokens=5000),
        at_rate(workload, float(n)),
        copies(workload, n, seed),
        resample_sessions(workload, 10 * n, seed),
    ):
        check(result)
    assert [(r.arrival_s, r.blocks, r.session, r.after, r.think_s) for r in workload.requests] == before


def test_a_follow_up_of_a_dropped_turn_follows_the_turn_before_that_one():
    workload = Workload(
        "w",
        [
            request(0, 1),
            request(1, 1, 2, 3, after=0, think_s=1.0),
            request(2, 1, 4, after=1, think_s=2.0),
            request(3, 9, 9, 9, session=1),
            request(4, 9, session=1, after=3, think_s=4.0),
        ],
    )
    kept = limit(workload, max_prompt_tokens=1024).requests
    assert [(r.arrival_s, r.after, r.think_s) for r in kept] == [(0, None, 0.0), (2, 0, 2.0), (4, None, 0.0)]
    assert len(limit(workload, 2, max_prompt_tokens=1024).requests) == 2


def test_starts_are_brought_to_the_rate_and_think_times_stay():
    faster = at_rate(sessions_of_two_turns(), 2.0)
    starts = [r for r in faster.requests if r.after is None]
    assert starts[-1].arrival_s == pytest.approx(len(faster.requests) / 2.0)
    assert {r.think_s for r in faster.requests if r.after is not None} == {5.0}


@pytest.mark.parametrize("qps", [0.0, 3.0])
def test_no_rate_can_be_given_to_starts_that_come_at_once(qps):
    with pytest.raises(ValueError, match="w: rate must be above 0 and starts spread"):
        at_rate(Workload("w", [request(0.0, 1), request(0.0, 2, session=1)]), qps)


def test_copies_share_the_system_prompt_and_nothing_else():
    workload = sessions_of_two_turns()
    tripled = copies(workload, 3, seed=1)
    assert len(tripled.requests) == 3 * len(workload.requests)
    assert {r.blocks[0] for r in tripled.requests} == {SYSTEM}
    assert distinct_blocks(tripled) == 1 + 3 * (distinct_blocks(workload) - 1)


def test_a_prefix_of_few_sessions_is_renumbered_with_them():
    workload = sessions_of_two_turns(SHARED_BRANCHES - 1)
    assert distinct_blocks(copies(workload, 2)) == 2 * distinct_blocks(workload)


def test_sub_agents_of_one_session_make_no_shared_prompt():
    agents = [request(float(i), SYSTEM, 100 + i) for i in range(2 * SHARED_BRANCHES)]
    assert distinct_blocks(copies(Workload("w", agents), 2)) >= 2 * distinct_blocks(Workload("w", agents)) - 1


def test_copies_keep_within_the_duration_and_cut_chats_in_the_order_of_their_turns():
    workload = from_trace(synthesise(SynthConfig(requests=2000)))
    doubled = copies(workload, 2, seed=3)
    assert doubled.requests[-1].arrival_s <= workload.requests[-1].arrival_s * 1.01
    longest: dict[int, int] = {}
    grown = 0
    for one in doubled.requests:
        grown += one.prompt_tokens >= longest.get(one.session, 0)
        longest[one.session] = max(longest.get(one.session, 0), one.prompt_tokens)
    assert grown == len(doubled.requests)


def test_a_chat_that_waits_for_its_turns_moves_as_a_whole():
    for one in copies(sessions_of_two_turns(), 5, seed=2).requests:
        if one.after is not None:
            assert one.think_s == 5.0
            assert len(one.blocks) == 3


def test_sessions_are_drawn_whole_with_blocks_of_their_own():
    drawn = resample_sessions(sessions_of_two_turns(), 50, seed=1)
    assert len(drawn.requests) == 100
    assert len({r.session for r in drawn.requests}) == 50
    assert distinct_blocks(drawn) == 1 + 50 * 2
    for one in drawn.requests:
        if one.after is not None:
            assert one.blocks[:2] == drawn.requests[one.after].blocks


def test_drawn_sessions_start_at_the_rate_asked_for():
    drawn = resample_sessions(sessions_of_two_turns(), 1000, seed=1, qps=20.0)
    last_start_s = max(r.arrival_s for r in drawn.requests if r.after is None)
    assert 2000 / last_start_s == pytest.approx(20.0, rel=0.15)
    assert drawn.requests == resample_sessions(sessions_of_two_turns(), 1000, seed=1, qps=20.0).requests
