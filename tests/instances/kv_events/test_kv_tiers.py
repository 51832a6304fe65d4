"""In which tier an engine's blocks are, in the gateway's words."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dualmap.instances.kv_events import translation as translation_module
from dualmap.instances.kv_events.format import EngineCleared, EngineRemoved, EngineStored, read_batch, tier_name
from dualmap.instances.kv_events.translation import KvTranslation
from dualmap.scheduler.events import BlocksRemoved, BlocksStored
from tests.instances.kv_events.engine_says import CLEARED, ME, Reader, engine_hashes, own, prompt, removed, stored


@pytest.mark.parametrize(
    ("events", "left"),
    [
        ([("+", "GPU"), ("+", "CPU"), ("-", "GPU")], True),
        ([("+", "GPU"), ("+", "CPU"), ("-", "CPU")], True),
        ([("+", "GPU"), ("+", "CPU"), ("-", "CPU"), ("-", "GPU")], False),
        ([("+", "GPU"), ("-", "CPU")], True),
        ([("+", "GPU"), ("-", "CPU"), ("-", "CPU"), ("-", "GPU")], False),
        ([("+", "GPU"), ("+", "GPU"), ("-", "GPU")], True),  # computed twice at the same time
        ([("+", "GPU"), ("+", "GPU"), ("-", "GPU"), ("-", "GPU")], False),
        ([("+", "CPU"), ("-", "CPU"), ("-", "CPU"), ("+", "CPU")], True),
        ([("+", None), ("-", None)], False),
    ],
)
def test_a_block_is_held_while_a_copy_is_in_any_medium(events, left):
    ids = prompt(16)
    translation = KvTranslation(ME, 16, True)
    reader = Reader()
    for change, medium in events:
        event = stored(ids, 16, medium=medium) if change == "+" else removed(ids, 16, 0, medium=medium)
        reader.told(translation.apply([event]))
    assert reader.held == (set(own(ids, 16)) if left else set())
    assert len(translation) == left


def test_a_tier_that_tells_hashes_alone_is_believed_of_known_blocks():
    ids = prompt(48)
    translation = KvTranslation(ME, 16, True)
    translation.apply([stored(ids, 16, medium="GPU")])
    known, unknown = engine_hashes(ids, 16)[1], 7
    in_tier = BlocksStored(ME, own(ids, 16)[1:2], "cpu")
    assert translation.apply([EngineStored([known, unknown], None, [], 0, medium="CPU")]) == (in_tier,)
    assert translation.unknown_parents == 1
    translation.apply([removed(ids, 16, 2, 1, 0, medium="GPU")])
    assert translation.held() == (CLEARED, in_tier)
    assert len(translation) == 1


def test_what_a_tier_stores_one_by_one_is_told_together():
    ids = prompt(64)
    translation = KvTranslation(ME, 16, True)
    blocks = own(ids, 16)
    events = [stored(ids, 16, i, i + 1, medium="CPU") for i in range(4)]
    assert translation.apply(events) == (BlocksStored(ME, blocks, "cpu"),)
    assert translation.apply(
        [stored(ids, 16, medium="STORAGE", locality="REMOTE"), removed(ids, 16, 3, medium="CPU")]
    ) == (
        BlocksStored(ME, blocks, "remote"),
        BlocksRemoved(ME, blocks[3:], "cpu"),
    )


def test_a_tier_that_never_drops_anything_is_believed_to_have_so_much(monkeypatch):
    monkeypatch.setattr(translation_module, "MOST_NEVER_DROPPED", 6)
    first, second = prompt(64, 1), prompt(64, 2)
    translation = KvTranslation(ME, 16, True)
    translation.apply([stored(first, 16, medium="cpu"), stored(first, 16, medium="cpu")])
    assert translation.apply([stored(second, 16, medium="cpu")]) == (
        BlocksStored(ME, own(second, 16), "cpu"),
        BlocksRemoved(ME, own(first, 16)[:2], "cpu"),
    )
    assert len(translation) == 6
    translation.apply([removed(first, 16, 3, 3, medium="cpu")])
    translation.apply([stored(prompt(64, 3), 16, medium="cpu")])
    assert len(translation) == 9, "one that says what it drops is believed"


def test_what_a_tier_never_drops_is_forgotten_many_blocks_at_a_time(monkeypatch):
    monkeypatch.setattr(translation_module, "MOST_NEVER_DROPPED", 200)
    translation = KvTranslation(ME, 16, True)
    first, second = prompt(3200, 1), prompt(32, 2)
    translation.apply([stored(first, 16, medium="cpu")])
    told = [translation.apply([stored(second, 16, i, i + 1, medium="cpu")]) for i in range(2)]
    assert told[0][1] == BlocksRemoved(ME, own(first, 16)[:3], "cpu")
    assert told[1] == (BlocksStored(ME, own(second, 16)[1:], "cpu"),)


@pytest.mark.parametrize("how", ["self-describing", "hashes alone"])
def test_what_vllm_offloads_is_in_the_pool_then_in_the_tier_then_in_both_then_nowhere(how):
    recorded = json.loads(Path(__file__).with_name("offloading.json").read_text())
    translation = KvTranslation(ME, 64, True)
    reader = Reader()
    blocks = set(own(recorded["prompt"][:128], 64))
    known = []
    for events in recorded[how].values():
        batch = msgspec.msgpack.encode([1.5, events, 0])
        reader.told(translation.apply(read_batch(batch)))
        known.append(reader.known)
    assert known == [{"": blocks, "cpu": blocks}, {"cpu": blocks}, {"": blocks, "cpu": blocks}, {}]
    assert translation.unknown_parents == 0


MEDIA = (("GPU", "LOCAL"), (None, None), ("CPU", "LOCAL"), ("cpu", None), ("STORAGE", None), ("STORAGE", "REMOTE"))
CHANGES = st.lists(
    st.one_of(
        st.tuples(st.just("stored"), st.sampled_from(MEDIA), st.integers(0, 2), st.integers(0, 5), st.integers(1, 6)),
        st.tuples(st.just("removed"), st.sampled_from(MEDIA), st.integers(0, 2), st.integers(0, 5), st.just(0)),
        st.just(("cleared",)),
    ),
    max_size=40,
)


@given(changes=CHANGES, size=st.sampled_from([16, 32, 48]), together=st.booleans())
@settings(max_examples=60, deadline=None, derandomize=True)
def test_a_reader_knows_what_is_in_which_tier_whatever_was_stored_removed_and_cleared(changes, size, together):
    """Against a model that counts copies of engine blocks. One is known once a run with its beginning is."""
    block_tokens = 32
    prompts = [prompt(size * 6, 1), prompt(size * 6, 2)]
    prompts.append(prompts[0][: size * 3] + prompts[1][: size * 3])
    ends = {h: ids[: (i + 1) * size] for ids in prompts for i, h in enumerate(engine_hashes(ids, size))}
    copies: dict[str, Counter[int]] = {}
    events: list[Any] = []
    reader = Reader()
    translation = KvTranslation(ME, block_tokens, True)

    def known(engine_hash: int) -> bool:
        return any(of_tier[engine_hash] for of_tier in copies.values())

    for change in changes:
        match change:
            case ("cleared",):
                copies.clear()
                event: Any = EngineCleared()
            case (kind, (medium, locality), which, start, length):
                ids = prompts[which]
                hashes = engine_hashes(ids, size)[start : start + max(1, length)]
                of_tier = copies.setdefault(tier_name(medium, locality), Counter())
                if kind == "removed":
                    of_tier[hashes[0]] = max(0, of_tier[hashes[0]] - 1)
                    event = EngineRemoved(hashes, medium, 0, locality)
                else:
                    event = stored(ids, size, start, start + len(hashes), medium=medium, locality=locality)
                    placed = start == 0 or known(event.parent_block_hash)
                    for engine_hash in hashes:
                        placed = placed or known(engine_hash)
                        of_tier[engine_hash] += placed
        events.append(event)
        if not together:
            reader.told(translation.apply([event]))
    if together:
        reader.told(translation.apply(events))
    expected = {
        tier: {
            block
            for engine_hash, count in of_tier.items()
            if count
            for block in own(ends[engine_hash], block_tokens)[(len(ends[engine_hash]) - size) // block_tokens :]
        }
        for tier, of_tier in copies.items()
    }
    assert reader.known == {tier: blocks for tier, blocks in expected.items() if blocks}
    late = Reader([1])
    late.told(translation.held())
    assert late.known == reader.known
    assert len(translation) == len({h for of_tier in copies.values() for h, count in of_tier.items() if count})
