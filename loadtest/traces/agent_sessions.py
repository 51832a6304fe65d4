"""Sessions of coding agents in the bodies that their APIs take: long instructions and tools that all of a kind share, a
task, and turns in which a tool is called and answers. The same session asks the same over each API."""

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

BYTES_PER_TOKEN = 4
_WORDS = (
    "parse",
    "token",
    "file",
    "test",
    "error",
    "list",
    "value",
    "name",
    "call",
    "index",
    "return",
    "while",
    "check",
)


@dataclass(frozen=True, slots=True)
class AgentSession:
    """Texts are about BYTES_PER_TOKEN bytes a token. calls: arguments and result of the tool in each turn."""

    instructions: str
    tool: str
    task: str
    calls: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class AgentShape:
    """Tokens. kinds: of agents, each with instructions and tools of its own."""

    kinds: int = 3
    instructions: int = 6000
    tools: int = 3000
    task: int = 400
    result: int = 700
    turns: int = 10


def agent_sessions(count: int, shape: AgentShape, seed: int = 0) -> list[AgentSession]:
    """The same for the same seed."""
    rng = random.Random(seed)
    kinds = [(_text(rng, shape.instructions), _text(rng, shape.tools)) for _ in range(shape.kinds)]
    return [
        AgentSession(
            *kinds[number % shape.kinds],
            _text(rng, shape.task),
            tuple((_text(rng, 8), _text(rng, shape.result)) for _ in range(shape.turns - 1)),
        )
        for number in range(count)
    ]


def chat_turns(session: AgentSession, model: str, answer_tokens: int) -> Iterator[dict[str, Any]]:
    """Bodies of /v1/chat/completions, one a turn."""
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": session.instructions},
        {"role": "user", "content": session.task},
    ]
    function = {"name": "run", "description": session.tool, "parameters": {"type": "object", "properties": {}}}
    for arguments, result in (*session.calls, ("", "")):
        yield {
            "model": model,
            "messages": list(messages),
            "tools": [{"type": "function", "function": function}],
            "max_tokens": answer_tokens,
        }
        call_id = f"call_{len(messages)}"
        call = {"name": "run", "arguments": json.dumps({"command": arguments})}
        messages.append(
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"id": call_id, "type": "function", "function": call}],
            }
        )
        messages.append({"role": "tool", "tool_call_id": call_id, "content": result})


def response_turns(session: AgentSession, model: str, answer_tokens: int) -> Iterator[dict[str, Any]]:
    """Bodies of /v1/responses: each repeats its session, as Codex does."""
    items: list[dict[str, Any]] = [{"type": "message", "role": "user", "content": session.task}]
    tool = {"type": "function", "name": "run", "description": session.tool}
    for arguments, result in (*session.calls, ("", "")):
        yield {
            "model": model,
            "instructions": session.instructions,
            "input": list(items),
            "tools": [tool | {"parameters": {"type": "object", "properties": {}}}],
            "max_output_tokens": answer_tokens,
            "store": False,
        }
        call_id = f"call_{len(items) + 1}"
        call = {"name": "run", "arguments": json.dumps({"command": arguments})}
        items.append({"type": "function_call", "call_id": call_id, **call})
        items.append({"type": "function_call_output", "call_id": call_id, "output": result})


def message_turns(session: AgentSession, model: str, answer_tokens: int) -> Iterator[dict[str, Any]]:
    """Bodies of /v1/messages, with the line in front that Claude Code changes with each request."""
    messages: list[dict[str, Any]] = [{"role": "user", "content": session.task}]
    tool = {"name": "run", "description": session.tool, "input_schema": {"type": "object", "properties": {}}}
    for turn, (arguments, result) in enumerate((*session.calls, ("", ""))):
        header = {"type": "text", "text": f"x-anthropic-billing-header: cc_version=2.1; cch={turn:05x};"}
        instructions = {"type": "text", "text": session.instructions, "cache_control": {"type": "ephemeral"}}
        yield {
            "model": model,
            "system": [header, instructions],
            "messages": list(messages),
            "tools": [tool],
            "max_tokens": answer_tokens,
        }
        call_id = f"call_{2 * turn + 2}"
        use = {"type": "tool_use", "id": call_id, "name": "run", "input": {"command": arguments}}
        messages.append({"role": "assistant", "content": [use]})
        messages.append(
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": call_id, "content": result}]}
        )


Turns = Callable[[AgentSession, str, int], Iterator[dict[str, Any]]]
AGENT_APIS: dict[str, Turns] = {
    "/v1/chat/completions": chat_turns,
    "/v1/responses": response_turns,
    "/v1/messages": message_turns,
}


def _text(rng: random.Random, tokens: int) -> str:
    words = []
    length = 0
    while length < tokens * BYTES_PER_TOKEN:
        words.append(rng.choice(_WORDS) + rng.choice((" ", " ", " ", "\n")))
        length += len(words[-1])
    return "".join(words)[: tokens * BYTES_PER_TOKEN]
