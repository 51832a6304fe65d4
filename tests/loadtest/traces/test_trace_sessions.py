"""Which request continues which."""

import pytest

from dualmap.loadtest.traces.sessions import SHARED_BRANCHES, predecessors
from dualmap.loadtest.traces.trace import BLOCK_TOKENS, TraceRequest, read_trace


def request(blocks: float, *hash_ids: int) -> TraceRequest:
    return TraceRequest(0, round(blocks * BLOCK_TOKENS), 10, hash_ids)


@pytest.mark.parametrize(
    ("requests", "expected"),
    [
        pytest.param([request(1.5, 0, 1), request(2.5, 0, 2, 3)], [None, 0], id="a turn repeats the full blocks"),
        pytest.param([request(2.0, 0, 1), request(2.5, 0, 1, 2)], [None, 0], id="no partial block to replace"),
        pytest.param([request(2.5, 0, 1, 2), request(2.5, 0, 3, 4)], [None, None], id="another second block"),
        pytest.param([request(0.5, 0), request(1.5, 1, 2)], [None, None], id="no full block says nothing"),
        pytest.param([request(1.5, 0, 1), request(1.5, 0, 2)], [None, None], id="not longer, so not the next turn"),
        pytest.param(
            [request(1.5, 0, 1), request(2.5, 0, 2, 3), request(3.5, 0, 2, 4, 5)], [None, 0, 1], id="longest match wins"
        ),
        pytest.param(
            [request(1.2, 0, 1), request(1.5, 0, 2), request(1.9, 0, 3)], [None, 0, 1], id="short turns in one block"
        ),
        pytest.param([request(2.5, 0, 1, 2), request(1.5, 0, 3)], [None, None], id="a prefix of it comes later"),
    ],
)
def test_a_turn_extends_all_full_blocks_of_the_turn_before(requests, expected):
    assert predecessors(requests) == expected


def test_a_prefix_that_many_chats_share_makes_no_sessions():
    just_the_prompt = request(1.0, 0)
    chats = [request(2.5, 0, 10 * i, 10 * i + 1) for i in range(1, SHARED_BRANCHES + 1)]
    next_turn = request(3.5, 0, 10, 12, 13)
    assert predecessors([just_the_prompt, *chats, next_turn]) == [None, *[None] * SHARED_BRANCHES, 1]


def test_links_in_the_public_trace_repeat_full_blocks_and_go_back_in_time(mooncake_trace):
    requests = read_trace(mooncake_trace)
    before = predecessors(requests)
    for index, earlier in enumerate(before):
        if earlier is not None:
            full = requests[earlier].full_blocks
            assert full >= 2  # block 0 is everyone's system prompt
            assert requests[index].hash_ids[:full] == requests[earlier].hash_ids[:full]
            assert requests[index].timestamp_ms > requests[earlier].timestamp_ms
    assert len(before) - before.count(None) > 3500
