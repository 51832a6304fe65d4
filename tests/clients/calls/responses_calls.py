"""OpenAI's Responses API with the official Python client, as programs and as coding agents use it."""

import base64
import hashlib
from collections.abc import Iterator
from typing import Any

import openai
from served import serve

TIMEOUT_S = 120.0
PICTURE = b"\x89PNG\r\n\x1a\n" + b"".join(hashlib.sha256(b"%d" % i).digest() for i in range(96 * 1024))  # 3 MB
RULES = "You are a coding agent that runs in a terminal. Read before you write. Keep changes small. " * 40
SHELL = {
    "type": "function",
    "name": "shell",
    "description": "Runs a command and returns its output.",
    "strict": False,
    "parameters": {
        "type": "object",
        "properties": {"command": {"type": "array", "items": {"type": "string"}}, "workdir": {"type": "string"}},
        "required": ["command"],
    },
}
OUTPUT = "drwxr-xr-x 2 me me 4096 Nov 28 12:00 src\n-rw-r--r-- 1 me me 1187 Nov 28 12:00 setup.py\n" * 8


def connect(**options: Any) -> openai.OpenAI:
    return openai.OpenAI(**{"timeout": TIMEOUT_S, "max_retries": 0, **options})


def seen(headers: Any, response: Any) -> dict[str, Any]:
    usage = response.usage
    return {
        "instance": headers["x-dualmap-instance"],
        "id": response.id,
        "status": response.status,
        "text": response.output_text,
        "input_tokens": usage.input_tokens,
        "cached_tokens": usage.input_tokens_details.cached_tokens,
    }


def answer(text: str, model: str = "sim", **fields: Any) -> dict[str, Any]:
    with connect() as client:
        raw = client.responses.with_raw_response.create(model=model, input=text, max_output_tokens=16, **fields)
        return seen(raw.headers, raw.parse())


def stream(text: str, model: str = "sim") -> dict[str, Any]:
    """The text in pieces, and the kinds of events in order, each once."""
    with connect() as client:
        events = list(client.responses.create(model=model, input=text, max_output_tokens=16, stream=True))
    kinds = list(dict.fromkeys(event.type for event in events))
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    return {"text": text, "kinds": kinds, "final": events[-1].response.output_text}


def completed(events: Iterator[Any]) -> Any:
    """The response as the last event of its stream has it."""
    *_, last = events
    return last.response


def agent_turns(name: str, turns: int, model: str = "sim") -> list[dict[str, Any]]:
    """A coding agent that stores nothing at the server: instructions, tools, and an input that grows by the model's
    words, a call of a tool and its output each turn."""
    items: list[Any] = [
        {
            "type": "message",
            "role": "developer",
            "content": [{"type": "input_text", "text": "Sandbox: workspace-write."}],
        },
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": f"<cwd>/home/{name}</cwd>"}]},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": f"Mend the build of {name}."}]},
    ]
    session = {"session_id": f"session-{name}", "originator": "codex_exec"}
    answers = []
    with connect(default_headers=session) as client:
        for turn in range(turns):
            raw = client.responses.with_raw_response.create(
                model=model,
                instructions=RULES,
                input=items,
                tools=[SHELL],
                tool_choice="auto",
                parallel_tool_calls=False,
                store=False,
                stream=True,
                max_output_tokens=8,
                prompt_cache_key=f"session-{name}",
            )
            response = completed(raw.parse())
            answers.append(seen(raw.headers, response))
            words = [{"type": "output_text", "text": response.output_text, "annotations": []}]
            call = {"call_id": f"call_{turn}", "name": "shell", "arguments": '{"command":["ls","-l"]}'}
            items += [
                {"type": "message", "role": "assistant", "id": f"msg_{turn}", "status": "completed", "content": words},
                {"type": "function_call", **call},
                {"type": "function_call_output", "call_id": f"call_{turn}", "output": f"Turn {turn}\n{OUTPUT}"},
            ]
    return answers


def follow_up_turns(name: str, turns: int, model: str = "sim") -> list[dict[str, Any]]:
    """Each turn names the response before it in place of bringing the conversation along."""
    previous: str | None = None
    answers = []
    with connect() as client:
        for turn in range(turns):
            raw = client.responses.with_raw_response.create(
                model=model,
                instructions=f"You serve {name}. " + RULES,
                input=f"Turn {turn} of {name}. {OUTPUT}",
                max_output_tokens=8,
                **({"previous_response_id": previous} if previous else {}),
            )
            response = raw.parse()
            previous = response.id
            answers.append(seen(raw.headers, response))
    return answers


def stored(text: str, model: str = "sim") -> dict[str, Any]:
    """Make a response and get it. vLLM deletes none."""
    with connect() as client:
        made = client.responses.with_raw_response.create(model=model, input=text, max_output_tokens=8)
        found = client.responses.with_raw_response.retrieve(made.parse().id)
        try:
            client.responses.delete(made.parse().id)
        except openai.APIStatusError as error:
            deleted = error.status_code
        else:
            deleted = 200
    return {
        "same": found.parse().output_text == made.parse().output_text,
        "instances": [raw.headers.get("x-dualmap-instance") for raw in (made, found)],
        "deleted": deleted,
    }


def cancel(text: str, model: str = "sim") -> list[str]:
    """A response made in the background and cancelled, unless it is complete by then: its first and last status."""
    with connect() as client:
        made = client.responses.create(
            model=model, input=text, max_output_tokens=4000, background=True, extra_body={"ignore_eos": True}
        )
        try:
            ended = client.responses.cancel(made.id)
        except openai.BadRequestError:
            ended = client.responses.retrieve(made.id)
        return [made.status or "", ended.status or ""]


def tool_call(model: str) -> list[str]:
    """Streamed: the name of a tool that must be called, and its arguments in pieces."""
    where = {"type": "string", "enum": ["Ulm", "Bonn"]}
    schema = {"type": "object", "properties": {"city": where}, "required": ["city"], "additionalProperties": False}
    tool: Any = {"type": "function", "name": "get_weather", "strict": True, "parameters": schema}
    with connect() as client:
        events = list(
            client.responses.create(
                model=model,
                input="How is the weather in Ulm?",
                tools=[tool],
                tool_choice={"type": "function", "name": "get_weather"},
                max_output_tokens=1000,
                temperature=1.8,  # a model of random weights comes to an end of its blanks
                stream=True,
            )
        )
    (call,) = (item for item in events[-1].response.output if item.type == "function_call")
    pieces = "".join(event.delta for event in events if event.type == "response.function_call_arguments.delta")
    return [call.name, call.arguments, pieces]


def missing(response_id: str, model: str = "sim") -> list[dict[str, Any]]:
    """What is said of a response that nobody has made: to one who asks for it, and to one who goes on from it."""
    shown = []
    with connect() as client:
        for call in (
            lambda: client.responses.retrieve(response_id),
            lambda: client.responses.create(model=model, input="Go on", previous_response_id=response_id),
        ):
            try:
                call()
            except openai.APIStatusError as error:
                shown.append({"status": error.status_code, "message": str(error), "body": error.body})
    return shown


def picture(model: str = "sim") -> dict[str, Any]:
    url = "data:image/png;base64," + base64.b64encode(PICTURE).decode()
    content: Any = [{"type": "input_text", "text": "What is it?"}, {"type": "input_image", "image_url": url}]
    with connect() as client:
        raw = client.responses.with_raw_response.create(
            model=model, input=[{"role": "user", "content": content}], max_output_tokens=8
        )
        return seen(raw.headers, raw.parse())


if __name__ == "__main__":
    serve(answer, stream, agent_turns, follow_up_turns, stored, cancel, missing, tool_call, picture)
