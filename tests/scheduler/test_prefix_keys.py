"""How many blocks form a key: more where too many requests share it, fewer again when they no longer do."""

import random
from collections import Counter

import pytest

from dualmap.scheduler.blocks import hash_trace_ids
from dualmap.scheduler.prefix_key import MIN_CROWD, MIN_WINDOW, PAIR, WINDOW_PER_INSTANCE, PrefixKeys

INSTANCES = 4
HOT = 32  # requests in the window that make a key hot, on 4 instances or more
WINDOW = 256


def make_keys(
    instances: int = INSTANCES,
    *,
    key_blocks: int = 1,
    max_key_blocks: int = 64,
    adaptive: bool = True,
    cold: bool = False,
):
    """Keys whose window is full of requests that share nothing; with cold=True it is empty."""
    keys = PrefixKeys(key_blocks, max_key_blocks, adaptive=adaptive)
    keys.resize(instances)
    if not cold:
        observe(keys, noise(max(MIN_WINDOW, WINDOW_PER_INSTANCE * instances), start=10**6))
    return keys


def prompt(*ids: int, length: int = 0) -> tuple[int, ...]:
    """A prompt that starts with these blocks and goes on, up to `length`, with blocks of its own."""
    own = (hash_trace_ids(ids)[-1] + i for i in range(length - len(ids)))
    return hash_trace_ids([*ids, *own])


def crowd(count: int, shared: int, length: int, start: int = 0) -> list[tuple[int, ...]]:
    """Prompts of which the first `shared` blocks are the same in all, and the next one in none."""
    return [prompt(*range(shared), 1000 + start + i, length=length) for i in range(count)]


def noise(count: int, start: int = 0) -> list[tuple[int, ...]]:
    return [prompt(10**6 + start + i, length=4) for i in range(count)]


def observe(keys: PrefixKeys, prompts: list[tuple[int, ...]]) -> list[int]:
    return [keys.observe(blocks).key for blocks in prompts]


@pytest.mark.parametrize("shared", [1, 2, 10, 40, 63, 300])
def test_a_hot_prefix_is_told_apart_by_the_first_block_in_which_its_requests_differ(shared: int):
    keys = make_keys(max_key_blocks=512)
    prompts = crowd(HOT + 10, shared, length=shared + 3)
    used = observe(keys, prompts)
    assert used[: HOT + 1] == [prompts[0][0]] * (HOT + 1)
    assert used[HOT + 1 :] == [blocks[shared] for blocks in prompts[HOT + 1 :]]


def test_a_prefix_just_below_the_threshold_keeps_its_key():
    keys = make_keys()
    observe(keys, crowd(HOT, 1, 3))
    assert not keys.depths


def test_a_lone_growing_chat_keeps_its_key_however_hot_it_is():
    keys = make_keys()
    chat = prompt(1, length=80)
    used = observe(keys, [chat[: 1 + turn % 80] for turn in range(400)])
    assert set(used) == {chat[0]}


def test_a_chat_that_only_continues_another_does_not_split_it():
    keys = make_keys()
    long = prompt(1, length=6)
    used = observe(keys, [long, long[:2], long[:4]] * 50)
    assert set(used) == {long[0]}


def test_a_long_hot_chat_is_split_once_it_branches():
    keys = make_keys()
    chat = prompt(1, length=10)
    observe(keys, [chat] * 100)
    branch = prompt(1, 2, length=10)
    observe(keys, [branch])
    assert keys.key(chat) == chat[1]
    assert keys.key(branch) == branch[1]


def test_a_crowd_is_told_apart_beyond_the_first_prompt_seen():
    keys = make_keys()
    observe(keys, [prompt(0), prompt(0, 1)])
    prompts = crowd(HOT + 5, 4, 6)
    assert observe(keys, prompts)[-1] == prompts[-1][4]


def test_a_crowd_within_a_crowd_is_split_again():
    keys = make_keys()
    mixed = [p for pair in zip(crowd(60, 1, 8), crowd(60, 5, 8), strict=True) for p in pair]
    observe(keys, mixed)
    outer, inner = crowd(1, 1, 8)[0], crowd(1, 5, 8)[0]
    assert keys.key(outer) == outer[1]
    assert keys.key(inner) == inner[5]


def test_a_prompt_too_short_for_the_deep_key_keeps_the_shallow_one():
    keys = make_keys()
    prompts = crowd(HOT + 1, 5, 8)
    observe(keys, prompts)
    assert keys.key(prompts[0]) == prompts[0][5]
    assert keys.key(prompts[0][:5]) == prompts[0][0]


def test_a_crowd_too_short_for_the_deep_key_is_split_where_it_differs():
    keys = make_keys()
    observe(keys, crowd(HOT + 1, 40, 42))
    short = crowd(HOT + 20, 1, 6)
    used = observe(keys, short)
    assert used[-1] == short[-1][1]


def test_requests_that_go_deeper_do_not_make_their_old_key_hot():
    keys = make_keys()
    observe(keys, crowd(WINDOW + HOT, 10, 12))
    depth = dict(keys.depths)
    observe(keys, [prompt(0, 5000, length=3)])
    assert keys.depths == depth


def test_a_prefix_that_has_cooled_gets_its_shallow_key_back():
    keys = make_keys()
    prompts = crowd(HOT + 20, 3, 6)
    observe(keys, prompts)
    assert keys.key(prompts[0]) == prompts[0][3]
    observe(keys, noise(WINDOW - HOT))
    assert keys.key(prompts[0]) == prompts[0][3], "its share has not fallen well below yet"
    observe(keys, noise(WINDOW, start=WINDOW))
    assert keys.key(prompts[0]) == prompts[0][0]


def test_a_share_between_the_two_thresholds_does_not_flap():
    keys = make_keys()
    start = 0
    depths = []
    for per_round in (60, 20, 30, 20, 12, 30):  # of a window of 256: hot above 32, cool below 8
        observe(keys, [*crowd(per_round, 1, 3, start), *noise(WINDOW - per_round, start)])
        start += WINDOW
        depths.append(len(keys.depths))
    assert depths == [1] * 6


@pytest.mark.parametrize("max_key_blocks", [1, 5])
def test_deepening_stops_at_the_configured_depth(max_key_blocks: int):
    keys = make_keys(max_key_blocks=max_key_blocks)
    prompts = crowd(200, max_key_blocks, length=8)
    assert set(observe(keys, prompts)) == {prompts[0][0]}


@pytest.mark.parametrize(("length", "depth"), [(1, 1), (2, 2), (3, 3), (9, 3)])
def test_the_key_starts_with_the_configured_number_of_blocks(length: int, depth: int):
    blocks = prompt(1, length=length)
    found = make_keys(key_blocks=3).observe(blocks)
    assert (found.key, found.depth) == (blocks[depth - 1], depth)


def test_with_adaptation_off_the_depth_is_fixed_and_nothing_is_remembered():
    keys = make_keys(adaptive=False)
    prompts = crowd(500, 1, 3)
    assert set(observe(keys, prompts)) == {prompts[0][0]}
    assert not keys.depths
    assert not keys._window


def test_asking_for_a_key_does_not_count_the_request():
    keys = make_keys()
    prompts = crowd(500, 1, 3)
    assert {keys.key(blocks) for blocks in prompts} == {prompts[0][0]}
    assert not keys.depths


@pytest.mark.parametrize("instances", [4, 8, 64, 1024])
def test_the_same_crowd_is_hot_at_any_cluster_size(instances: int):
    keys = make_keys(instances)
    assert keys.hot_count == HOT
    observe(keys, crowd(HOT + 1, 1, 3))
    assert len(keys.depths) == 1


@pytest.mark.parametrize("instances", [1, 4, 1024])
def test_a_cold_start_does_not_wait_for_a_full_window(instances: int):
    keys = make_keys(instances, cold=True)
    prompts = crowd(MIN_CROWD + 2, 1, 3)
    assert observe(keys, prompts)[-1] == prompts[-1][1]


@pytest.mark.parametrize("remembered", [0, 16, 64, 128, 256])
def test_the_threshold_grows_with_the_window_as_it_fills(remembered: int):
    keys = make_keys(cold=True)
    observe(keys, noise(remembered))
    assert keys.hot_count == max(MIN_CROWD, remembered / 8)


@pytest.mark.parametrize(("instances", "hot"), [(0, 128), (1, 128), (2, 64)])
def test_a_handful_of_requests_on_a_small_cluster_is_no_crowd(instances: int, hot: int):
    assert make_keys(instances).hot_count == hot


@pytest.mark.parametrize("instances", [1, 4, 16])
def test_memory_is_bounded_by_the_window(instances: int):
    rng = random.Random(4)
    keys = make_keys(instances)
    window = max(MIN_WINDOW, WINDOW_PER_INSTANCE * instances)
    for i in range(3 * window):
        shared = rng.choice((0, 1, 1, 3, 3, 3, 12))
        keys.observe(crowd(1, shared, 14, start=rng.randrange(50) if i % 2 else i)[0])
        assert len(keys._window) <= window
    assert sum(share.count for share in keys._shares.values()) == sum(len(path) for path, _ in keys._window)
    counts = Counter(key for path, _ in keys._window for key in path)
    assert {key: share.count for key, share in keys._shares.items()} == counts
    assert keys._alike == Counter(last for _, last in keys._window)
    assert keys.depths.keys() <= keys._shares.keys()
    assert keys.homes.keys() <= keys._alike.keys()


def test_a_smaller_cluster_forgets_down_to_its_window():
    keys = make_keys(64)
    observe(keys, noise(4096))
    keys.resize(4)
    observe(keys, noise(1))
    assert len(keys._window) == WINDOW
    assert len(keys._shares) <= WINDOW


@pytest.mark.parametrize(
    ("share", "homes"),
    [
        # Of 4 instances each gives half of its time to a prompt that it is a home of: an eighth of all requests.
        (0.125, PAIR),
        (0.22, PAIR),
        (0.3, 4),
        (0.6, 8),
        (1.0, 8),
    ],
)
def test_a_prompt_that_nothing_tells_apart_has_as_many_homes_as_its_share_needs(share: float, homes: int):
    keys = make_keys()
    alike = prompt(1, length=12)
    for i in range(2 * WINDOW):
        keys.observe(alike if int(i * share) != int((i - 1) * share) else prompt(10**7 + i, length=4))
    assert keys.observe(alike).homes == homes
    assert keys.observe(alike).shared_blocks == (12 if homes > PAIR else 0)


def test_it_loses_them_one_half_after_the_other_when_it_cools():
    keys = make_keys()
    alike = prompt(1, length=12)
    observe(keys, [alike] * WINDOW)
    seen = []
    for blocks in noise(WINDOW, start=2 * 10**6):
        keys.observe(blocks)
        seen.append(keys.homes.get(alike[-1], PAIR))
    assert list(dict.fromkeys(seen)) == [8, 4, PAIR]
    assert not keys.homes


def test_a_chat_that_grows_by_a_block_each_other_turn_is_no_crowd():
    keys = make_keys()
    chat = prompt(1, length=200)
    observe(keys, [chat[: 1 + turn // 2] for turn in range(400)])
    assert not keys.homes


def test_of_a_crowd_told_apart_the_shared_part_is_named():
    keys = make_keys()
    prompts = crowd(HOT + 10, 12, length=15)
    for blocks in prompts:
        seen = keys.observe(blocks)
    assert (seen.depth, seen.shared_blocks, seen.homes) == (13, 12, PAIR)


def test_who_is_too_short_to_be_told_apart_is_spread_beside_those_who_are():
    keys = make_keys()
    shared = crowd(1, 12, length=15)[0][:12]
    for blocks in crowd(3 * HOT, 12, length=15):
        keys.observe(blocks)
        short = keys.observe(shared)
    assert (short.key, short.depth, short.shared_blocks) == (shared[0], 1, 12)
    assert short.homes > PAIR


def test_what_all_agreed_on_goes_before_what_one_gateway_found():
    keys = make_keys()
    alike, other = prompt(1, length=12), prompt(2, length=12)
    observe(keys, [alike] * WINDOW)
    found = keys.observe(alike).homes
    assert found > 4
    assert keys.agree(1, (), ((alike[-1], 4), (other[-1], 4)))
    assert (keys.observe(alike).homes, keys.observe(other).homes) == (4, 4)
    assert not keys.agree(1, (), ())
    assert keys.agree(2, (), ())
    assert (keys.observe(alike).homes, keys.observe(other).homes) == (found, PAIR)


def test_a_burst_is_told_apart_before_all_have_agreed_on_it():
    keys = make_keys()
    assert keys.agree(1, ((prompt(7)[0], 3),), ())
    prompts = crowd(HOT + 10, 12, length=15)
    assert observe(keys, prompts)[-1] == prompts[-1][12]
    assert keys.key(prompt(7, 1, 2, length=4)) == prompt(7, 1, 2, length=4)[2]


def test_each_time_that_a_hot_prefix_is_found_is_counted():
    keys = make_keys()
    prompts = crowd(HOT + 1, 2, length=5)
    observe(keys, prompts[:HOT])
    assert (keys.found, keys.shared_blocks(prompts[0])) == (0, 0)
    observe(keys, prompts[HOT:])
    assert keys.found == 1
    assert [keys.shared_blocks(blocks) for blocks in prompts] == [2] * len(prompts)
    observe(keys, crowd(5, 2, length=5, start=100))
    assert keys.found == 1
    assert keys.shared_blocks(noise(1)[0]) == 0


def test_a_prompt_that_many_have_is_found_with_each_doubling_of_its_homes():
    keys = make_keys()
    alike = prompt(7, length=3)
    found = []
    while keys.homes.get(alike[-1], PAIR) < 4 * PAIR:
        found.append((keys.found, keys.shared_blocks(alike)))
        keys.observe(alike)
    assert found[0] == (0, 0)
    assert (keys.found, keys.shared_blocks(alike)) == (2, 3)
