"""The engine under random load: no block is lost, and every request ends exactly once."""

from collections import Counter
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from dualmap.instances.kv_events.format import EngineRemoved, EngineStored
from dualmap.instances.simulated.engine import Engine
from dualmap.instances.simulated.engine_profile import EngineProfile
from dualmap.instances.simulated.engine_types import EngineRequest, StepOutput
from dualmap.instances.simulated.leases import LEASE_S
from dualmap.instances.simulated.tracked_request import Phase

PROFILES = st.builds(
    lambda size, blocks, seqs, batch, offload, read_s: EngineProfile(
        block_size=size,
        kv_tokens=size * blocks,
        max_num_seqs=seqs,
        max_num_batched_tokens=seqs + batch,
        max_model_len=size * blocks,
        prefill_s_per_token=0.1,
        offload_tokens=size * offload,
        offload_s_per_token=read_s,
    ),
    st.integers(1, 4),
    st.integers(2, 12),
    st.integers(1, 6),
    st.integers(0, 10),
    st.sampled_from((0, 0, 3, 20)),
    st.sampled_from((0.0, 0.3)),
)


class EngineUse(RuleBasedStateMachine):
    """Requests come and are aborted at any moment, also while a step runs."""

    @initialize(profile=PROFILES)
    def build(self, profile: EngineProfile) -> None:
        self.engine = Engine(profile)
        self.now = 0.0
        self.ends_at: float | None = None
        self.requests: dict[str, EngineRequest] = {}
        self.tokens: Counter[str] = Counter()
        self.over: set[str] = set()  # finished or aborted
        self.loads: set[str] = set()  # under way
        self.engine.pool.events = []
        self.told: dict[str | None, set[int]] = {}  # by medium: blocks that are there

    @rule(
        family=st.integers(0, 2),
        data=st.data(),
        priority=st.integers(-1, 1),
        leg=st.sampled_from(("", "", "loads", "lends")),
    )
    def add(self, family: int, data: st.DataObject, priority: int, leg: str) -> None:
        profile = self.engine.profile
        prompt = data.draw(st.integers(1, profile.max_model_len - 1))
        output = data.draw(st.integers(1, profile.max_model_len - prompt))
        blocks = tuple(family * 100 + i for i in range((prompt + output) // profile.block_size))
        request = EngineRequest(
            f"r{len(self.requests)}", blocks, prompt, output, priority, loads=leg == "loads", lends=leg == "lends"
        )
        self.requests[request.request_id] = request
        self.engine.add(request, self.now)

    @precondition(lambda self: self.alive())
    @rule(data=st.data())
    def abort(self, data: st.DataObject) -> None:
        request_id = data.draw(st.sampled_from(sorted(self.alive())))
        assert self.engine.abort(request_id)
        assert not self.engine.loaded(request_id)
        self.over.add(request_id)
        self.loads.discard(request_id)

    @precondition(lambda self: self.loads)
    @rule(data=st.data())
    def load(self, data: st.DataObject) -> None:
        request_id = data.draw(st.sampled_from(sorted(self.loads)))
        assert self.engine.loaded(request_id)
        self.loads.remove(request_id)

    @rule(seconds=st.sampled_from((0.0, LEASE_S / 2, LEASE_S)))
    def end_leases(self, seconds: float) -> None:
        before = len(self.engine.leases)
        assert self.engine.leases.expire(self.now + seconds) == before - len(self.engine.leases)

    @precondition(lambda self: self.ends_at is None)
    @rule()
    def start(self) -> None:
        self.ends_at = self.engine.start_step(self.now)
        begun = self.engine.take_loads()
        assert all(0 < tokens <= self.requests[request_id].prompt_tokens for request_id, tokens in begun)
        self.loads.update(request_id for request_id, _ in begun)
        held = self.loads or len(self.engine.leases) or self.engine.next_read_s
        assert self.ends_at or not self.alive() or held, "an engine with requests always has something to compute"
        assert self.ends_at is None or self.alive()
        assert self.ends_at is None or self.ends_at > self.now
        chunks = self.engine._chunks or []
        assert all(tracked.phase is Phase.PREFILL for tracked, _ in chunks), "nobody is preempted after its turn"
        assert sum(tokens for _, tokens in chunks) <= self.engine.profile.max_num_batched_tokens

    @precondition(lambda self: self.ends_at is None and self.engine.next_read_s is not None)
    @rule()
    def read_back(self) -> None:
        self.now = max(self.now, self.engine.next_read_s or 0.0)

    @precondition(lambda self: self.ends_at is not None)
    @rule()
    def finish(self) -> None:
        assert self.ends_at is not None
        self.now, self.ends_at = self.ends_at, None
        self.take(self.engine.finish_step(self.now))

    @rule()
    def reset_the_cache(self) -> None:
        assert self.engine.pool.reset() == (self.engine.kv_usage == 0)

    def take(self, output: StepOutput) -> None:
        got = [*output.decoding, *(request.request_id for request in output.finished)]
        assert len(got) == len(set(got))
        assert not self.over & set(got)
        for first in output.first_tokens:
            assert first.request_id in got
            assert self.tokens[first.request_id] == 0
            loaded = self.requests[first.request_id].loads
            assert 0 <= first.cached_tokens < first.prompt_tokens + loaded
        assert sum(count for _, count in output.token_gaps_s) == len(got) - len(output.first_tokens)
        assert all(gap_s > 0 for gap_s, _ in output.token_gaps_s)
        self.tokens.update(got)
        for request in output.finished:
            assert self.tokens[request.request_id] == request.output_tokens
            assert request.arrived_s <= request.started_s <= request.first_token_s <= request.finished_s == self.now
            self.over.add(request.request_id)

    def alive(self) -> set[str]:
        return self.requests.keys() - self.over

    @invariant()
    def every_request_is_running_or_waiting_until_it_is_over(self) -> None:
        if not hasattr(self, "engine"):
            return
        assert self.engine.running + self.engine.waiting == len(self.alive())
        assert self.engine.running <= self.engine.profile.max_num_seqs

    @invariant()
    def blocks_in_use_are_those_that_requests_hold_or_that_are_lent(self) -> None:
        if not hasattr(self, "engine"):
            return
        uses: Counter[Any] = Counter()
        for tracked in self.engine._requests.values():
            uses.update(tracked.table)
        for lease in self.engine.leases._leases.values():
            uses.update(lease.blocks)
        assert all(block.references == count for block, count in uses.items())
        assert self.engine.pool.free_blocks == self.engine.pool.capacity - len(uses)

    @invariant()
    def what_is_told_is_what_is_there(self) -> None:
        if not hasattr(self, "engine"):
            return
        for event in self.engine.take_events():
            match event:
                case EngineStored():
                    assert self.told.setdefault(event.medium, set()).isdisjoint(event.block_hashes)
                    self.told[event.medium].update(event.block_hashes)
                case EngineRemoved():
                    assert self.told[event.medium].issuperset(event.block_hashes)
                    self.told[event.medium].difference_update(event.block_hashes)
                case _:
                    self.told.clear()
        pool = self.engine.pool
        assert self.told.get("GPU", set()) == pool._cached.keys()
        assert self.told.get("CPU", set()) == pool._offloaded.keys()

    def teardown(self) -> None:
        if not hasattr(self, "engine"):
            return
        while self.alive():
            if self.ends_at is None:
                self.start()
            if self.ends_at is None:
                while self.loads:
                    assert self.engine.loaded(self.loads.pop())
                self.end_leases(LEASE_S)
                self.now = max(self.now, self.engine.next_read_s or 0.0)
            else:
                self.finish()
            self.blocks_in_use_are_those_that_requests_hold_or_that_are_lent()
        self.end_leases(LEASE_S)
        assert self.engine.kv_usage == 0
        assert self.engine._decode_context == 0
        assert not any(self.engine._ends_due.values())
        assert not any(self.engine._blocks_due.values())


EngineUse.TestCase.settings = settings(max_examples=150, stateful_step_count=40)
test_any_use_loses_neither_requests_nor_blocks = EngineUse.TestCase


@settings(max_examples=60)
@given(profile=PROFILES, lengths=st.lists(st.tuples(st.integers(1, 30), st.integers(1, 30)), min_size=1, max_size=8))
def test_equal_requests_in_equal_engines_take_equal_time(
    profile: EngineProfile, lengths: list[tuple[int, int]]
) -> None:
    def run() -> list[tuple[str, float]]:
        engine = Engine(profile)
        for i, (prompt, output) in enumerate(lengths):
            prompt = min(prompt, profile.max_model_len - 1)
            output = min(output, profile.max_model_len - prompt)
            engine.add(EngineRequest(f"r{i}", tuple(range(100)), prompt, output), 0.0)
        ends: list[tuple[str, float]] = []
        now = 0.0
        while (ends_at := engine.start_step(now)) is not None or engine.next_read_s is not None:
            if ends_at is None:
                now = engine.next_read_s or now
                continue
            now = ends_at
            ends += [(request.request_id, now) for request in engine.finish_step(now).finished]
        return ends

    assert run() == run()
