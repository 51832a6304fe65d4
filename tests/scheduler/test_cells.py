"""Which cell serves a request: conversations stay, crowds spread, cells come and go."""

import random
from collections import Counter
from statistics import pstdev

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dualmap.scheduler import InstanceCapacity, Request, Scheduler, SchedulerConfig
from dualmap.scheduler.blocks import hash_trace_ids
from dualmap.scheduler.cells import (
    BLOCK_WORTH_S,
    MARKS_PER_INSTANCE,
    REFUSED_S,
    SILENT_S,
    CellLoad,
    CellReason,
    CellRouter,
    load_of,
)
from dualmap.scheduler.dual_ring import FIRST_SEED
from dualmap.scheduler.events import InstanceDraining, InstanceJoined, RequestArrived
from dualmap.scheduler.ring import HashRing

NAMES = tuple("abcdefgh")
SIZE = 64
RANDOM = random.Random(7)


def router_of(*names: str, size: int = SIZE) -> CellRouter:
    router = CellRouter()
    for name in names:
        router.join(name, size, 0.0)
    return router


def prompt(*ids: int, length: int = 0) -> tuple[int, ...]:
    """Starts with these blocks and goes on, up to `length`, with blocks of its own."""
    own = RANDOM.getrandbits(40) << 16
    return hash_trace_ids([*ids, *(own + i for i in range(length - len(ids)))])


def strangers(count: int, length: int = 4) -> list[tuple[int, ...]]:
    return [prompt(length=length) for _ in range(count)]


def settled(*names: str) -> CellRouter:
    """Has seen many prompts that share nothing, so that a handful of equal ones is no crowd."""
    router = router_of(*names)
    for number, blocks in enumerate(strangers(64 * max(4, len(names)))):
        router.choose(blocks, f"stranger-{number}", 0.0)
    return router


def load_all(router: CellRouter, backlog_s: float, **others: float) -> None:
    """Each cell reports backlog_s, or what `others` says."""
    for name in NAMES:
        router.report(name, CellLoad(SIZE, others.get(name, backlog_s)), 0.0)


def test_a_conversation_stays_in_its_cell_turn_after_turn():
    router = settled(*NAMES)
    whole = [prompt(length=40) for _ in range(50)]
    first = [router.choose(blocks[:2], f"{i}-2", 0.0).cell for i, blocks in enumerate(whole)]
    for turn in range(3, 40, 3):
        load_all(router, 0.1, **{name: RANDOM.uniform(0.0, 0.3) for name in NAMES})
        for i, blocks in enumerate(whole):
            choice = router.choose(blocks[:turn], f"{i}-{turn}", 0.0)
            assert (choice.cell, choice.reason) == (first[i], CellReason.WARM)


def test_a_conversation_that_left_its_candidates_stays_where_it_went():
    router = settled(*NAMES)
    blocks = prompt(length=12)
    pair = router.choose(blocks[:4], "1", 0.0).candidates
    moved = router.choose(blocks[:6], "2", 0.0, tried=set(pair)).cell
    assert moved not in pair
    choice = router.choose(blocks, "3", 0.0)
    assert (choice.cell, choice.reason, choice.given_blocks) == (moved, CellReason.WARM, 6)
    assert choice.candidates == (*pair, moved)


def test_a_prompt_that_branches_off_goes_where_what_it_shares_was_given():
    router = settled(*NAMES)
    blocks = prompt(length=30)
    home = router.choose(blocks, "1", 0.0)
    branch = router.choose((*blocks[:20], *prompt(length=10)), "2", 0.0)
    assert branch.cell == home.cell
    assert branch.given_blocks == 16, "the deepest mark within what is shared"


def test_conversations_under_one_system_prompt_spread_over_all_cells_and_each_stays():
    router = router_of(*NAMES)
    system = tuple(range(10))
    chats = [prompt(*system, length=30) for _ in range(2000)]
    for number, blocks in enumerate(chats):
        router.choose(blocks[:12], f"{number}-1", 0.0)
    second = [router.choose(blocks[:20], f"{number}-2", 0.0) for number, blocks in enumerate(chats)]
    cells = Counter(choice.cell for choice in second[200:])
    assert max(cells.values()) < 1.5 * 1800 / len(NAMES)
    assert min(cells.values()) > 0.5 * 1800 / len(NAMES)
    third = [router.choose(blocks, f"{number}-3", 0.0) for number, blocks in enumerate(chats)]
    assert [c.cell for c in third] == [c.cell for c in second]


def test_equal_prompts_that_two_cells_cannot_carry_spread_over_more():
    busiest = []
    for _ in range(20):
        router = settled(*NAMES)
        blocks = prompt(length=10)
        cells = [router.choose(blocks, str(number), 0.0).cell for number in range(1500)]
        assert len(set(cells[:8])) == 1, "a few of them do not"
        late = Counter(cells[750:])
        assert len(late) >= len(NAMES) / 2
        busiest.append(max(late.values()) / 750)
    assert sum(busiest) / len(busiest) < 0.4, "of two cells, the busier one has at least half"


def test_a_prefix_that_is_not_hot_stays_in_one_cell():
    router = settled(*NAMES)
    cells = {router.choose(prompt(1, 2, 3, length=8), str(number), 0.0).cell for number in range(8)}
    assert len(cells) == 1


@pytest.mark.parametrize(
    ("excess_s", "reason"), [(9 * BLOCK_WORTH_S, CellReason.WARM), (11 * BLOCK_WORTH_S, CellReason.SWITCHED)]
)
def test_leaves_the_cell_that_was_given_the_prefix_only_when_waiting_costs_more_than_the_prefix(
    excess_s: float, reason: CellReason
):
    router = settled(*NAMES)
    blocks = prompt(length=15)
    home = router.choose(blocks[:10], "1", 0.0).cell
    load_all(router, 0.5, **{home: 0.5 + excess_s})
    choice = router.choose(blocks, "2", 0.0)
    assert choice.reason is reason
    assert (choice.cell == home) is (reason is CellReason.WARM)


def test_of_two_cells_that_were_given_nothing_the_less_loaded_one_is_chosen():
    router = router_of(*NAMES)
    for place, name in enumerate(NAMES):
        router.report(name, CellLoad(SIZE, 1.0, used=place / 10), 0.0)
    for blocks in strangers(200):
        choice = router.choose(blocks, "r", 0.0)
        assert (choice.cell, choice.reason) == (min(choice.candidates), CellReason.BALANCED)


def test_what_a_cell_was_given_since_it_reported_counts_and_what_it_has_worked_off_does_not():
    router = router_of("a", "b")
    router.report("a", CellLoad(10, 0.5, request_s=1.0), 0.0)
    router.report("b", CellLoad(10, 1.0, request_s=1.0), 0.0)
    cells = [router.choose(blocks, str(i), 0.0).cell for i, blocks in enumerate(strangers(45))]
    assert cells[:5] == ["a"] * 5, "ten requests are a second of backlog"
    assert Counter(cells)["a"] == pytest.approx(Counter(cells)["b"] + 5, abs=1)
    router.report("b", CellLoad(10, 9.0, request_s=1.0, age_s=1.0), 2.0)
    router.report("a", CellLoad(10, 7.5, request_s=1.0, age_s=0.0), 2.0)
    assert router.choose(prompt(length=3), "r", 2.0).cell == "a", "7.5 s against 9 s less one that has passed"
    router.report("a", CellLoad(10, 9.0, request_s=1.0), 2.0)
    assert router.choose(prompt(length=3), "r", 2.0).cell == "b"


def test_a_tie_goes_to_the_first_candidate_which_is_no_cell_more_often_than_another():
    router = router_of(*NAMES)
    choices = [router.choose(blocks, str(i), 0.0) for i, blocks in enumerate(strangers(2000))]
    assert all(choice.cell == choice.candidates[0] for choice in choices)
    cells = Counter(choice.cell for choice in choices)
    assert all(0.6 * 250 < cells[name] < 1.5 * 250 for name in NAMES)


def unavailable(router: CellRouter, name: str, how: str) -> set[str]:
    """Returns what is to be given as `tried`."""
    match how:
        case "full":
            router.report(name, CellLoad(SIZE, full=True), 10.0)
        case "refused":
            router.refused(name, 10.0)
        case "tried":
            return {name}
        case "left":
            router.leave(name)
        case "silent":
            for other in NAMES:
                if other != name:
                    router.report(other, CellLoad(SIZE), 10.0)
    return set()


@pytest.mark.parametrize("how", ["full", "refused", "tried", "left", "silent"])
def test_no_request_goes_to_a_cell_that_takes_none_and_the_others_keep_theirs(how: str):
    router = router_of(*NAMES)
    for name in NAMES:
        router.report(name, CellLoad(SIZE), 10.0 if how != "silent" else 9.0 - SILENT_S)
    if how == "silent":
        tried = unavailable(router, "c", how)
        before = router_of(*NAMES)
    else:
        before = router
    chats = strangers(400)
    homes = [before.choose(blocks, str(i), 10.0).cell for i, blocks in enumerate(chats)]
    if how != "silent":
        tried = unavailable(router, "c", how)
    for i, blocks in enumerate(chats):
        cell = router.choose((*blocks, i), f"{i}-2", 10.0, tried).cell
        assert cell == homes[i] if homes[i] != "c" else cell != "c"


def test_a_cell_that_refused_is_tried_again_after_a_while():
    router = router_of("a", "b")
    router.refused("a", 1.0)
    cells = [{router.choose(blocks, "r", now).cell for blocks in strangers(50)} for now in (1.0, 1.0 + REFUSED_S)]
    assert cells == [{"b"}, {"a", "b"}]


@pytest.mark.parametrize("silent", [True, False])
def test_where_no_cell_takes_requests_all_do(silent: bool):
    router = router_of("a", "b", "c")
    if not silent:
        for name in "abc":
            router.report(name, CellLoad(SIZE, full=True), 1.0)
    now = 1.0 + (SILENT_S if silent else 0.0)
    assert {router.choose(blocks, "r", now).cell for blocks in strangers(100)} == set("abc")


@pytest.mark.parametrize(("names", "tried"), [("", ""), ("a", "a"), ("ab", "ab")])
def test_without_a_cell_outside_those_tried_there_is_no_choice(names: str, tried: str):
    assert router_of(*names).choose(prompt(length=3), "r", 0.0, set(tried)) is None


def test_the_last_cell_left_is_chosen_as_the_only_one():
    choice = router_of("a").choose(prompt(length=3), "r", 0.0)
    assert (choice.cell, choice.reason) == ("a", CellReason.ONLY_ONE)


def test_a_request_without_a_prompt_goes_to_any_cell():
    router = router_of(*NAMES)
    cells = Counter(router.choose((), str(number), 0.0).cell for number in range(800))
    assert len(cells) == len(NAMES)


def test_an_older_report_does_not_replace_a_newer_one():
    router = router_of("a", "b")
    router.report("a", CellLoad(SIZE, 1.0), 5.0)
    router.report("a", CellLoad(SIZE, 9.0, age_s=2.0), 6.0)
    router.report("b", CellLoad(SIZE, 5.0), 6.0)
    assert {router.choose(blocks, "r", 6.0).cell for blocks in strangers(50)} == {"a"}


def test_when_a_cell_joins_conversations_stay_and_only_its_own_share_of_the_new_ones_is_its():
    router, unchanged = settled(*NAMES), router_of(*NAMES)
    chats, fresh = strangers(600, 8), strangers(600, 8)
    homes = [router.choose(blocks[:6], f"{i}-1", 0.0).cell for i, blocks in enumerate(chats)]
    router.join("new", SIZE, 0.0)
    assert homes == [router.choose(blocks, f"{i}-2", 0.0).cell for i, blocks in enumerate(chats)]
    for i, blocks in enumerate(fresh):
        has, had = router.choose(blocks, f"n{i}", 0.0), unchanged.choose(blocks, f"n{i}", 0.0)
        assert has.cell == had.cell or "new" in has.candidates
        assert set(has.candidates) & set(had.candidates)


def test_when_a_cell_leaves_only_its_conversations_go_elsewhere():
    router = settled(*NAMES)
    chats = strangers(600, 8)
    homes = [router.choose(blocks[:6], f"{i}-1", 0.0).cell for i, blocks in enumerate(chats)]
    router.leave("c")
    for i, blocks in enumerate(chats):
        cell = router.choose(blocks, f"{i}-2", 0.0).cell
        assert cell == homes[i] if homes[i] != "c" else cell != "c"


def test_a_cell_that_came_back_has_been_given_nothing():
    router = settled("a", "b")
    blocks = prompt(length=8)
    home = router.choose(blocks[:6], "1", 0.0).cell
    router.join(home, SIZE, 0.0)
    assert router.choose(blocks, "2", 0.0).reason is CellReason.BALANCED


def test_a_cell_has_requests_by_its_number_of_instances():
    router = router_of("a", "b", "c")
    router.report("a", CellLoad(2 * SIZE), 0.0)
    cells = Counter(router.choose(blocks, str(i), 0.0).cell for i, blocks in enumerate(strangers(4000)))
    assert cells["a"] == pytest.approx(2000, rel=0.25)


def test_what_another_front_gateway_gave_is_known():
    router = settled(*NAMES)
    blocks = prompt(length=12)
    router.heard_given(blocks[:8], "e")
    router.heard_given(blocks[:8], "nobody")
    choice = router.choose(blocks, "r", 0.0)
    assert (choice.cell, choice.given_blocks) == ("e", 8)


def test_memory_is_bounded_whatever_comes():
    router = router_of("a", "b", size=1)
    for number in range(3000):
        router.choose(prompt(length=RANDOM.randint(1, 60)), str(number), 0.0)
    assert router.remembered_marks <= 2 * MARKS_PER_INSTANCE + 8


def test_what_was_given_long_ago_is_forgotten():
    router = router_of("a", "b", size=1)
    blocks = prompt(length=8)
    router.choose(blocks, "1", 0.0)
    for number, other in enumerate(strangers(2 * MARKS_PER_INSTANCE)):
        router.choose(other, f"x{number}", 0.0)
    assert router.choose(blocks, "2", 0.0).reason is CellReason.BALANCED


def test_the_keys_of_one_cell_are_spread_over_the_instances_within_it():
    """Rings hash a key alike on both levels, but for the salt."""
    router, inner = router_of(*NAMES), HashRing(FIRST_SEED, 128)
    for number in range(32):
        inner.add(f"i{number}")
    counts: Counter[str | None] = Counter()
    for number in range(30_000):
        key = RANDOM.getrandbits(64)
        if router.choose((key,), str(number), 0.0).cell == "a":
            counts[inner.lookup(key)] += 1
    assert pstdev(counts.values()) < 0.2 * counts.total() / 32


def test_a_core_says_how_its_cell_does():
    core = Scheduler(SchedulerConfig())
    assert load_of(core) == CellLoad(0, full=True)
    capacity = InstanceCapacity(prefill_tokens_per_s=1000.0, max_running=4, kv_tokens=100_000)
    for name in "ab":
        core.handle(InstanceJoined(name, 0, capacity), 0.0)
    core.handle(RequestArrived(Request("r", prompt(length=2), 1024)), 0.0)
    assert load_of(core) == CellLoad(2, backlog_s=1.024 / 2, used=1 / 8, request_s=1.024)
    core.handle(InstanceDraining("b", 0), 0.0)
    assert load_of(core).instances == 1


STEPS = st.one_of(
    st.tuples(st.just("join"), st.sampled_from(NAMES), st.integers(1, 128)),
    st.tuples(st.just("leave"), st.sampled_from(NAMES), st.just(0)),
    st.tuples(st.just("full"), st.sampled_from(NAMES), st.integers(0, 128)),
    st.tuples(st.just("load"), st.sampled_from(NAMES), st.integers(0, 20)),
    st.tuples(st.just("refused"), st.sampled_from(NAMES), st.just(0)),
    st.tuples(st.just("given"), st.sampled_from(NAMES), st.integers(0, 30)),
    st.tuples(st.just("choose"), st.sampled_from(NAMES), st.integers(0, 30)),
)


@settings(max_examples=60)
@given(st.lists(STEPS, max_size=80))
def test_whatever_happens_the_choice_is_a_cell_that_is_there_and_the_same_again(steps: list[tuple[str, str, int]]):
    """Two routers that saw the same agree; a choice is one of its candidates, and outside those tried."""
    routers = CellRouter(), CellRouter()
    present: set[str] = set()
    for at, (what, name, number) in enumerate(steps):
        choices = []
        for router in routers:
            blocks = hash_trace_ids(range(number))
            match what:
                case "join":
                    router.join(name, number, float(at))
                case "leave":
                    router.leave(name)
                case "full":
                    router.report(name, CellLoad(number, full=True), float(at))
                case "load":
                    router.report(name, CellLoad(SIZE, float(number)), float(at))
                case "refused":
                    router.refused(name, float(at))
                case "given":
                    router.heard_given(blocks, name)
                case "choose":
                    choices.append(router.choose(blocks, str(at), float(at), {name}))
        present = present | {name} if what == "join" else present - {name} if what == "leave" else present
        assert {each for each in NAMES if each in routers[0]} == present
        if choices:
            one, other = choices
            assert one == other
            assert (one is None) is not bool(present - {name})
            assert one is None or (one.cell in one.candidates and set(one.candidates) <= present - {name})
