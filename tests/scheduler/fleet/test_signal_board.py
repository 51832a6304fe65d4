"""Fleet's board: each gateway hears each change once, whatever was missed, restarted or lost in between."""

import random

import pytest

from dualmap.scheduler.events import BlocksRemoved, BlocksStored, CacheCleared
from dualmap.scheduler.fleet import signal_board
from dualmap.scheduler.fleet.signal_board import Sharing, SignalBoard
from dualmap.scheduler.fleet.signals import InstanceSignals, LoadSample

LOAD = LoadSample(1, 2, 0.5)
NOW = 50.0


def stored(*blocks: int, instance_id: str = "a") -> BlocksStored:
    return BlocksStored(instance_id, blocks)


def put(board: SignalBoard, *changes, told: int = 0, complete: bool = False, instance_id: str = "a") -> bool:
    return board.put(InstanceSignals(instance_id, cache=changes, cache_from=told, cache_complete=complete), NOW)


def cached(changes, before: dict[str, set[int]] | None = None) -> dict[str, set[int]]:
    """What a gateway believes after the changes."""
    held = before if before is not None else {}
    for change in changes:
        blocks = held.setdefault(change.instance_id, set())
        match change:
            case BlocksStored():
                blocks.update(change.blocks)
            case BlocksRemoved():
                blocks.difference_update(change.blocks)
            case CacheCleared():
                blocks.clear()
    return held


def test_a_gateway_hears_each_change_once_in_order():
    board = SignalBoard(1)
    put(board, stored(1, 2))
    first = board.news(0, NOW)
    put(board, BlocksRemoved("a", (2,)), stored(3), told=1)
    second = board.news(first.number, NOW)
    assert cached(first.cache) == {"a": {1, 2}}
    assert second.cache == (BlocksRemoved("a", (2,)), stored(3))
    assert board.news(second.number, NOW) is None


def test_who_comes_late_hears_in_which_tier_each_block_is():
    board = SignalBoard(1)
    changes = (stored(1, 2), BlocksStored("a", (1, 2, 3), "cpu"), BlocksStored("a", (3,), "remote"))
    put(board, *changes, BlocksRemoved("a", (2,)), BlocksRemoved("a", (1,), "cpu"), BlocksRemoved("a", (3,), "remote"))
    assert board.news(10**9, NOW).cache == (CacheCleared("a"), stored(1), BlocksStored("a", (2, 3), "cpu"))


def test_the_age_of_a_sample_grows_while_it_lies_there():
    board = SignalBoard(1)
    board.put(InstanceSignals("a", LOAD, load_age_s=0.2), NOW)
    assert board.news(0, NOW + 0.5).signals[0].load_age_s == pytest.approx(0.7)


def test_an_instance_whose_changes_were_missed_is_asked_for_all():
    board = SignalBoard(1)
    assert put(board, stored(1))
    assert not put(board, stored(3), told=2)
    assert put(board, CacheCleared("a"), stored(1, 2, 3), complete=True)
    assert put(board, stored(4), told=2)
    assert cached(board.news(0, NOW).cache) == {"a": {1, 2, 3, 4}}


def test_a_board_that_was_restarted_asks_for_all_and_tells_all():
    before = SignalBoard(1)
    put(before, stored(1, 2))
    known = before.news(0, NOW).number
    board = SignalBoard(known + 1)
    assert not put(board, stored(3), told=1)
    put(board, CacheCleared("a"), stored(1, 3), complete=True)
    assert cached(board.news(known, NOW).cache, {"a": {1, 2}}) == {"a": {1, 3}}


def test_an_instance_that_was_forgotten_begins_anew():
    board = SignalBoard(1)
    put(board, stored(1))
    board.forget("a")
    assert board.news(0, NOW).signals == ()
    assert put(board, stored(2))
    assert cached(board.news(0, NOW).cache) == {"a": {2}}


def test_what_a_gone_instance_held_does_not_outlive_it_on_the_way_to_a_gateway():
    board = SignalBoard(1)
    put(board, stored(0))
    known = board.news(0, NOW).number
    put(board, stored(1), told=1)
    board.forget("a")
    put(board, stored(2))
    assert cached(board.news(known, NOW).cache) == {"a": {2}}


def test_what_is_not_of_the_cache_says_nothing_of_it():
    board = SignalBoard(1)
    board.put(InstanceSignals("a", LOAD), NOW)
    news = board.news(0, NOW)
    assert news.cache == ()
    assert news.signals[0].load == LOAD


SHARING = Sharing("", frozenset({"m"}), "", ("remote",))


def put_shared(
    board: SignalBoard, instance_id: str, *changes, told: int = 0, sharing: Sharing | None = SHARING
) -> None:
    assert board.put(InstanceSignals(instance_id, cache=changes, cache_from=told), NOW, sharing)


def remote(instance_id: str, *blocks: int) -> BlocksStored:
    return BlocksStored(instance_id, blocks, "remote")


def test_who_comes_late_hears_what_gone_instances_have_left_in_a_tier_that_others_read():
    board = SignalBoard(1)
    put_shared(board, "a", stored(1), BlocksStored("a", (2,), "cpu"), remote("a", 1, 2, 3))
    for other, sharing in (("b", SHARING), ("c", None), ("d", SHARING._replace(revision="2")), ("e", SHARING)):
        put_shared(board, other, stored(9, instance_id=other), sharing=sharing)
    put_shared(board, "b", BlocksRemoved("b", (3,), "remote"), CacheCleared("b"), told=1)
    board.forget("a")
    told = board.news(10**9, NOW).cache
    assert [change for change in told if isinstance(change, BlocksStored) and change.tier] == [remote("b", 1, 2)]
    put_shared(board, "e", told=1)  # who was heard last is there
    assert remote("e", 1, 2) in board.news(10**9, NOW).cache


def test_what_is_shared_is_kept_while_nobody_is_there_to_read_it():
    board = SignalBoard(1)
    put_shared(board, "a", remote("a", 1, 2))
    board.forget("a")
    assert board.news(10**9, NOW).cache == ()
    put_shared(board, "b")
    assert board.news(10**9, NOW).cache == (remote("b", 1, 2),)


def test_what_is_kept_of_shared_tiers_is_bounded(monkeypatch):
    monkeypatch.setattr(signal_board, "MAX_SHARED_BLOCKS", 3)
    monkeypatch.setattr(signal_board, "MOST_SHARINGS", 2)
    board = SignalBoard(1)
    for number in range(3):
        put_shared(board, str(number), remote(str(number), 1, 2, 3, 4), sharing=SHARING._replace(revision=str(number)))
    told = [change for change in board.news(10**9, NOW).cache if isinstance(change, BlocksStored)]
    assert told == [remote("1", 2, 3, 4), remote("2", 2, 3, 4)]


def test_gateways_believe_what_instances_hold_however_seldom_they_ask(monkeypatch):
    monkeypatch.setattr(signal_board, "MAX_CHANGES_KEPT", 20)
    rng = random.Random(3)
    board = SignalBoard(1)
    truth: dict[str, set[int]] = {"a": set(), "b": set()}
    told = {"a": 0, "b": 0}
    beliefs: list[dict[str, set[int]]] = [{}, {}]
    known = [0, 0]
    for _ in range(2000):
        instance_id = rng.choice("ab")
        block = rng.randrange(50)
        change = rng.choices(
            (
                stored(block, block + 1, instance_id=instance_id),
                BlocksRemoved(instance_id, (block,)),
                CacheCleared(instance_id),
            ),
            (20, 20, 1),
        )[0]
        cached((change,), truth)
        assert put(board, change, told=told[instance_id], instance_id=instance_id)
        told[instance_id] += 1
        for gateway, chance in enumerate((0.5, 0.02)):
            if rng.random() < chance and (news := board.news(known[gateway], NOW)):
                known[gateway] = news.number
                assert cached(news.cache, beliefs[gateway]) == {i: truth[i] for i in beliefs[gateway]}
