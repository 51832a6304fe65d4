"""Whatever may happen to a fleet: each method is an event, with what must be true of its commands."""

from dataclasses import replace

import pytest

from dualmap.scheduler import InstanceCapacity, Request
from dualmap.scheduler.blocks import hash_trace_ids
from dualmap.scheduler.commands import Reject, RejectReason
from dualmap.scheduler.errors import ContractError
from dualmap.scheduler.events import (
    BlocksRemoved,
    BlocksStored,
    CacheCleared,
    Event,
    FailureCause,
    FirstToken,
    GatewayLoads,
    InstanceDraining,
    InstanceJoined,
    InstanceLoad,
    InstanceLost,
    LoadReported,
    MovesProposed,
    RequestArrived,
    RequestCancelled,
    RequestFailed,
    RequestFinished,
    ServedElsewhere,
    ServedModel,
    SettingsChanged,
    StreamContinued,
    Tick,
)
from dualmap.scheduler.rebalance import plan_rebalance
from dualmap.scheduler.request import BEFORE_ALL
from dualmap.scheduler.snapshot import Move
from tests.scheduler.core.checked_core import ADAPTERS, MAX_OUTPUT_TOKENS, CheckedCore

TENANTS = ("", "", "flood", "flood", "quiet")
CAPACITIES = (
    InstanceCapacity(prefill_tokens_per_s=1000.0, kv_tokens=8000, max_running=3, cache_tokens=20_000),
    InstanceCapacity(prefill_tokens_per_s=4000.0, kv_tokens=20_000, max_running=8, weight=2.0, attention_tokens=3000),
    InstanceCapacity(prefill_tokens_per_s=500.0, kv_tokens=3000, max_running=1, weight=0.5),
)
# Few roots, of which the first is hot, and branches at several depths; () is a prompt without anything to reuse.
PROMPTS = [
    (),
    *(
        hash_trace_ids([root, *([7] * common), *(100 * branch + i for i in range(own))])
        for root in (0, 0, 0, 1, 2)
        for common in (0, 3)
        for branch in (1, 2, 3, 4)
        for own in (0, 1, 6)
    ),
]


class Fleet(CheckedCore):
    """An index stands for one of those there are."""

    def join(self, instance_id: str, step: int, capacity: InstanceCapacity) -> None:
        incarnation = self.incarnations[instance_id] + step
        replaced = self.members.get(instance_id)
        back = incarnation == replaced and instance_id in self.draining
        late = replaced is not None and incarnation <= replaced and not back
        if back:
            self.draining.discard(instance_id)
            self.keep_queue.discard(instance_id)
        elif not late:
            self.members[instance_id] = self.incarnations[instance_id] = incarnation
            self.draining.discard(instance_id)
            self.keep_queue.discard(instance_id)
            self.others.pop(instance_id, None)
            self.most_members = max(self.most_members, len(self.members))
        elif incarnation == replaced:
            late = capacity.cache_tokens == self.core.instances[instance_id].capacity.cache_tokens
        self._send_joined(instance_id, incarnation, capacity, late=late)

    def offer(self, instance_id: str, models: tuple[ServedModel, ...]) -> None:
        """It serves these from now on, or from when it joins; one that drains tells nothing."""
        if self.models.get(instance_id, ()) == models or instance_id in self.draining:
            return
        self.models[instance_id] = models
        incarnation = self.members.get(instance_id)
        if incarnation is not None:
            self._send_joined(instance_id, incarnation, InstanceCapacity(), late=False)

    def _send_joined(self, instance_id: str, incarnation: int, capacity: InstanceCapacity, *, late: bool) -> None:
        adapters, models = ADAPTERS[instance_id], self.models.get(instance_id, ())
        self._send(InstanceJoined(instance_id, incarnation, capacity, adapters=adapters, models=models), late=late)

    def drain(self, instance_id: str) -> None:
        late = instance_id not in self.members or instance_id in self.draining
        if not late:
            self.draining.add(instance_id)
            if not self.ready:
                self.keep_queue.add(instance_id)
        self._send(InstanceDraining(instance_id, self.incarnations[instance_id]), late=late)

    def lose(self, instance_id: str, step: int) -> None:
        incarnation = self.members.get(instance_id, 0) + step
        late = self.members.get(instance_id) != incarnation
        if not late:
            del self.members[instance_id]
            self.others.pop(instance_id, None)
            self.draining.discard(instance_id)
            self.keep_queue.discard(instance_id)
        self._send(InstanceLost(instance_id, incarnation, "died"), late=late)

    def arrive(
        self,
        prompt: int,
        prompt_tokens: int,
        priority: int,
        streams: bool,
        slo_s: float | None,
        tenant: str,
        timeout_s: float | None,
    ) -> None:
        self._arrived += 1
        blocks = PROMPTS[prompt % len(PROMPTS)]
        max_output_tokens = (0, 20, MAX_OUTPUT_TOKENS)[self._arrived % 3]
        request = Request(
            f"r{self._arrived}",
            blocks,
            prompt_tokens,
            max_output_tokens=max_output_tokens,
            ttft_slo_s=slo_s,
            priority=priority,
            tenant=tenant,
            streams=streams,
            block_tokens=(0, 512, 100, 0, 390)[self._arrived % 5],  # estimates of one block's length differ
            timeout_s=timeout_s,
            adapter={3: "sql", 17: "poems"}.get(self._arrived % 24, ""),
            only={5: ("a", "b"), 6: ("e",), 17: ("a", "c", "never"), 10: ("b",)}.get(self._arrived % 24, ()),
            stateful=self._arrived % 24 in (10, 11),
            tpot_slo_s=(None, None, 0.0, 0.05, 1e-6)[self._arrived % 5],
            key_blocks=hash_trace_ids([prompt % 7, 1, prompt]) if self._arrived % 4 == 1 else (),
            session=(0, 0, 1, prompt + 1)[self._arrived % 4],
            model=("", "chat", "chat", "code", "chat")[self._arrived % 5] if self.models else "",
            length_tokens=(0, 1500, 6000)[self._arrived % 3] if self.models else 0,
        )
        self.requests[request.id] = request
        self.arrived_at[request.id] = self.now
        commands = self._send(RequestArrived(request))
        shed = [c.request_id for c in commands if isinstance(c, Reject) and c.reason is RejectReason.QUEUE_FULL]
        assert len(shed) <= 2
        if request.id in shed:
            self._check_shed(request)
        self.shed_waiting += len(set(shed) - {request.id})

    def change_settings(self, slo_s: float, max_waiting: int) -> None:
        """max_waiting never falls: the queues may hold more than that by then."""
        more = max(max_waiting, self.config.max_waiting)
        self.config = replace(self.config, ttft_slo_s=slo_s, max_waiting=more)
        self._send(SettingsChanged(self.config))
        assert (self.core.config.ttft_slo_s, self.core.config.max_waiting) == (slo_s, more)

    def arrive_again(self, index: int) -> None:
        if self.requests:
            with pytest.raises(ContractError):
                self.core.handle(RequestArrived(self.requests[_pick(self.requests, index)]), self.now)
            self._check_books()

    def first_token(self, index: int) -> None:
        if self.running:
            request_id = _pick(self.running, index)
            number, _ = self.running[request_id]
            self._send(FirstToken(request_id, number), late=self.core.attempts[request_id].started)

    def serve_elsewhere(self, index: int, instance_id: str) -> None:
        """On any instance, whatever the request asked for: the proxy did as it liked."""
        if self.running:
            request_id = _pick(self.running, index)
            number, before = self.running[request_id]
            late = instance_id not in self.members or instance_id == before or self.core.attempts[request_id].started
            if not late:
                del self.running[request_id]
                self.redirected[request_id] = instance_id
            self._send(ServedElsewhere(request_id, number, instance_id), late=late)

    def finish(self, index: int, output_tokens: int) -> None:
        if self.running:
            request_id = _pick(self.running, index)
            number, _ = self.running.pop(request_id)
            self._end(request_id)
            self._send(RequestFinished(request_id, number, output_tokens))

    def fail(self, index: int, cause: FailureCause, tokens_sent: int) -> None:
        if self.running:
            request_id = _pick(self.running, index)
            number, _ = self.running.pop(request_id)
            self._send(RequestFailed(request_id, number, tokens_sent, cause=cause))

    def go_on(self, index: int, sent_tokens: int) -> None:
        """Another instance gives the rest of an answer: nobody makes room for it, and it is no new request."""
        if not self.cut:
            return
        request = self.cut.pop(_pick(self.cut, index))
        number = self.last_attempt[request.id]
        rest = replace(
            request,
            prompt_tokens=request.prompt_tokens + sent_tokens,
            goes_on_after=number,
            sent_tokens=request.sent_tokens + sent_tokens,
        )
        tried = self.seen[request.id].instance_id
        stats = self.core.stats
        counted = (stats.arrived, stats.slo_missed)
        self.requests[request.id] = replace(rest, priority=BEFORE_ALL, timeout_s=None)
        del self.ended[request.id]
        self.arrived_at[request.id] = self.now
        self.continued += 1
        commands = self._send(StreamContinued(rest, (tried,)))
        assert {c.request_id for c in commands if isinstance(c, Reject)} <= {request.id}
        assert (stats.arrived, stats.slo_missed) == counted
        if (attempt := self.core.attempts.get(request.id)) is not None:
            assert attempt.number == number + 1
            assert attempt.instance_id != tried or self.able(request) <= {tried}

    def cancel(self, index: int) -> None:
        if self.requests:
            request_id = _pick(self.requests, index)
            self.running.pop(request_id, None)
            self._end(request_id)
            assert request_id not in {c.request_id for c in self._send(RequestCancelled(request_id))}

    def tell_late(self, kind: int, index: int, off: int) -> None:
        """An event for an attempt that is over, has not begun, or never was."""
        over = [i for i in self.last_attempt if i not in self.running] or ["never"]
        request_id = _pick(over, index)
        number = self.last_attempt.get(request_id, 1)
        if self.running and off:
            request_id = _pick(self.running, index)
            number = self.running[request_id][0] + off
        events: tuple[Event, ...] = (
            FirstToken(request_id, number),
            RequestFinished(request_id, number, 5),
            RequestFailed(request_id, number, 0, cause=FailureCause.BROKEN),
            RequestCancelled(f"not-{request_id}"),
            ServedElsewhere(request_id, number, "a"),
        )
        assert self._send(events[kind % 5], late=True) == []

    def report_cache(self, instance_id: str, kind: int, prompt: int) -> None:
        blocks = PROMPTS[prompt % len(PROMPTS)]
        events = (BlocksStored(instance_id, blocks), BlocksRemoved(instance_id, blocks[1:]), CacheCleared(instance_id))
        assert self._send(events[kind % 3]) == []

    def hear_of_others(self, loads: tuple[InstanceLoad, ...], instance_id: str, prompt: int) -> None:
        self.others = {load.instance_id: load for load in loads if load.instance_id in self.members}
        self._send(GatewayLoads(loads, ((instance_id, PROMPTS[prompt % len(PROMPTS)]),)))

    def report_load(self, instance_id: str, running: int, kv_used: float, age_s: float) -> None:
        self._send(LoadReported(instance_id, running, running // 2, kv_used=kv_used, age_s=age_s))

    def plan(self) -> None:
        snapshot = self.core.snapshot(self.now)
        if snapshot is not None:
            assert self.config.rebalancing
            moves = plan_rebalance(snapshot, self.core.config)
            assert len(moves) <= self.config.max_moves
            assert len({m.request_id for m in moves}) == len(moves)
            assert all(m.gain_s >= self.config.min_move_gain_s for m in moves)
            self.plans.append(MovesProposed(tuple(moves), snapshot.version))

    def propose(self) -> None:
        if self.plans:
            self._propose(self.plans.pop(0))

    def propose_garbage(self, index: int, here: str, there: str) -> None:
        request_id = _pick(self.requests, index) if self.requests else "never"
        actual = self.seen[request_id].instance_id if request_id in self.seen else here
        moves = (Move(request_id, actual, there, gain_s=1.0), Move(request_id, here, there, gain_s=1.0))
        self._propose(MovesProposed(moves, self.core.version))

    def _propose(self, proposed: MovesProposed) -> None:
        stats = self.core.stats
        judged = stats.moves_applied + stats.moves_refused
        self._send(proposed)
        assert stats.moves_applied + stats.moves_refused == judged + len(proposed.moves)

    def tick(self, after_s: float) -> None:
        self.now += after_s
        self._send(Tick())
        assert all(
            due >= self.now for due, _, _ in self.core.books.assumed
        )  # what a tick dispatches may be due at once
        self._check_time_outs()

    def end_all(self) -> None:
        """Every request ends; then nothing may be booked any more."""
        for turn in range(10_000):
            if not self.requests:
                break
            if self.running:
                self.finish(turn, 50)
            else:
                self.cancel(turn)
        self.tick(1e6)
        assert not self.core.attempts
        assert not len(self.core.held)
        assert not self.core.books.assumed
        assert not len(self.core.books.time_outs)
        assert not self.core.books.suspects
        for view in self.core.instances.values():
            assert not view.waiting_count
            assert not view.running_count
            assert (view.waiting_tokens, view.booked_prefill_tokens, view.booked_kv_tokens) == (0, 0, 0)


def _pick(ids, index: int) -> str:
    ordered = sorted(ids)
    return ordered[index % len(ordered)]
