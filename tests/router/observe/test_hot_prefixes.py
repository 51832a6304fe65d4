"""Prefixes that many of the last requests shared."""

from dualmap.router.observe.hot_prefixes import hot_prefixes
from dualmap.router.observe.recent_decisions import RecentDecisions
from dualmap.scheduler import InstanceCapacity, Request, Scheduler, SchedulerConfig
from dualmap.scheduler.blocks import hash_trace_ids
from dualmap.scheduler.events import InstanceJoined, RequestArrived


def test_prompts_are_counted_by_their_key_whether_their_tokens_were_known_or_not():
    core = Scheduler(SchedulerConfig())
    for name in "abc":
        core.handle(InstanceJoined(name, 1, InstanceCapacity()), 0.0)
    text = hash_trace_ids([5, 6])
    decisions = RecentDecisions()
    known_by = [(text, ()), (hash_trace_ids([901]), text), ((), text), ((), ())]
    for number, (blocks, key_blocks) in enumerate(known_by):
        request = Request(f"r{number}", blocks, 900, key_blocks=key_blocks)
        (dispatch,) = core.handle(RequestArrived(request), float(number))
        decisions.note("", b"id", "tiny", dispatch, core.attempts[request.id])
    (prefix,) = hot_prefixes(core.policy, decisions.latest())
    assert (prefix["key"], prefix["depth"], prefix["requests"]) == (f"{text[0]:016x}"[:8], 1, 3)
    assert prefix["candidates"] == list(core.attempts["r0"].candidates)
