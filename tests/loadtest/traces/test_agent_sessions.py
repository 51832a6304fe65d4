"""Sessions of agents are the same over each API, and each turn repeats the one before."""

import json
from itertools import pairwise

import pytest

from dualmap.loadtest.traces.agent_sessions import AGENT_APIS, AgentShape, agent_sessions
from dualmap.router.apis.api import Api
from dualmap.router.apis.chat import CHAT
from dualmap.router.apis.messages import MESSAGES
from dualmap.router.apis.read_body import Scope
from dualmap.router.apis.responses import RESPONSES
from dualmap.router.http.http_request import HttpRequest

SHAPE = AgentShape(kinds=2, instructions=600, tools=300, task=50, result=200, turns=4)
APIS: dict[str, Api] = {"/v1/chat/completions": CHAT, "/v1/responses": RESPONSES, "/v1/messages": MESSAGES}
SESSIONS = agent_sessions(4, SHAPE)


def blocks(path: str, number: int) -> list[tuple[int, ...]]:
    """Of each turn."""
    bodies = AGENT_APIS[path](SESSIONS[number], "m", 10)
    return [APIS[path].read(HttpRequest(0.0), json.dumps(body).encode(), Scope(16)).blocks for body in bodies]


@pytest.mark.parametrize("path", APIS)
def test_each_turn_repeats_the_one_before_and_adds_to_it(path):
    turns = blocks(path, 0)
    assert len(turns) == SHAPE.turns
    for earlier, later in pairwise(turns):
        assert len(later) > len(earlier)
        assert later[: len(earlier)] == earlier


@pytest.mark.parametrize("path", APIS)
def test_agents_of_a_kind_share_tools_and_instructions_and_no_more(path):
    first, other_kind, same_kind = (set(blocks(path, number)[-1]) for number in range(3))
    assert not first & other_kind
    tokens = 16 * len(first & same_kind)
    assert SHAPE.instructions + SHAPE.tools - 32 <= tokens <= SHAPE.instructions + SHAPE.tools + 64


def test_a_session_is_as_long_over_each_api():
    lengths = {tuple(len(turn) for turn in blocks(path, 0)) for path in APIS}
    assert max(map(max, lengths)) - min(map(max, lengths)) <= 2
