"""The official Python client of Anthropic's API. Address and key come from ANTHROPIC_BASE_URL and ANTHROPIC_API_KEY."""

import asyncio
import base64
import hashlib
from typing import Any

import anthropic
from served import serve

TIMEOUT_S = 120.0
PICTURE = b"\x89PNG\r\n\x1a\n" + b"".join(hashlib.sha256(b"%d" % i).digest() for i in range(96 * 1024))  # 3 MB
KEPT = {"cache_control": {"type": "ephemeral"}}
RULES = "You are an agent that helps with software. Answer in few words. Use the tools that you are given. " * 40
TOOLS: list[Any] = [
    {
        "name": name,
        "description": f"{name} of a file or folder in the workspace, by its absolute path. " * 4,
        "input_schema": {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]},
    }
    for name in ("Read", "Edit", "List")
]
RESULT = "   12\tdef main() -> int:\n   13\t    return run(parse(sys.argv))\n" * 10


def connect(**options: Any) -> anthropic.Anthropic:
    return anthropic.Anthropic(**{"timeout": TIMEOUT_S, "max_retries": 0, **options})


def seen(headers: Any, message: Any) -> dict[str, Any]:
    usage = message.usage
    return {
        "instance": headers["x-dualmap-instance"],
        "text": "".join(block.text for block in message.content if block.type == "text"),
        "stop_reason": message.stop_reason,
        "input_tokens": usage.input_tokens,
        "cached_tokens": usage.cache_read_input_tokens or 0,
        "output_tokens": usage.output_tokens,
    }


def raised(call: Any) -> dict[str, Any]:
    try:
        call()
    except anthropic.APIStatusError as error:
        return {
            "class": type(error).__name__,
            "status": error.status_code,
            "body": error.body,
            "message": str(error),
            "retry_after": error.response.headers.get("retry-after"),
        }
    return {"class": ""}


def message(text: str, model: str = "sim", max_tokens: int = 16, **options: Any) -> dict[str, Any]:
    """options: of the client."""
    with connect(**options) as client:
        raw = client.messages.with_raw_response.create(
            model=model, max_tokens=max_tokens, messages=[{"role": "user", "content": text}]
        )
        return {**seen(raw.headers, raw.parse()), "retries": raw.retries_taken}


def stream(text: str, model: str = "sim", max_tokens: int = 16) -> dict[str, Any]:
    with connect() as client:
        body: Any = {"model": model, "max_tokens": max_tokens, "messages": [{"role": "user", "content": text}]}
        with client.messages.stream(**body) as events:
            pieces = list(events.text_stream)
            final = events.get_final_message()
            headers = {"x-dualmap-instance": "", **events.response.headers}  # not known where comments came first
    return {**seen(headers, final), "streamed": "".join(pieces), "pieces": len(pieces)}


def leave_stream(text: str, after: int) -> int:
    """Close a stream after so many pieces of very many."""
    body: Any = {"max_tokens": 50_000, "messages": [{"role": "user", "content": text}]}
    with connect() as client, client.messages.stream(model="sim", **body, extra_body={"ignore_eos": True}) as events:
        for count, _ in enumerate(events.text_stream, 1):
            if count == after:
                return count
    return 0


def count_tokens(text: str, model: str = "sim") -> dict[str, Any]:
    """Counted before, and used then."""
    with connect() as client:
        body: Any = {"model": model, "system": RULES, "tools": TOOLS, "messages": [{"role": "user", "content": text}]}
        counted = client.messages.count_tokens(**body)
        usage = client.messages.create(max_tokens=4, **body).usage
    used = usage.input_tokens + (usage.cache_read_input_tokens or 0) + (usage.cache_creation_input_tokens or 0)
    return {"counted": counted.input_tokens, "used": used}


def agent_turns(name: str, turns: int, model: str = "sim") -> list[dict[str, Any]]:
    """A coding agent: a first line of the system prompt that is another at each request, tools, calls of tools and
    their results, marks of what to cache that move along."""
    user = f"<system-reminder>Today is Sunday.</system-reminder>\nMend the build of {name}."
    messages: list[Any] = [{"role": "user", "content": [{"type": "text", "text": user}]}]
    session = {"x-claude-code-session-id": f"session-{name}", "anthropic-beta": "claude-code-20250219", "x-app": "cli"}
    answers = []
    with connect(default_headers=session) as client:
        for turn in range(turns):
            mark = hashlib.sha256(f"{name} {turn}".encode()).hexdigest()
            billing = f"x-anthropic-billing-header: cc_version=2.1.328.{mark[:3]}; cc_entrypoint=cli; cch={mark[3:8]};"
            system: list[Any] = [
                {"type": "text", "text": billing},
                {"type": "text", "text": "You are a coding agent in a terminal.", **KEPT},
                {"type": "text", "text": f"{RULES}\nWorking directory: /home/{name}", **KEPT},
            ]
            *before, last = messages
            marked = {**last, "content": [*last["content"][:-1], {**last["content"][-1], **KEPT}]}
            with client.beta.messages.stream(
                model=model,
                max_tokens=8,
                system=system,
                tools=TOOLS,
                messages=[*before, marked],
                metadata={"user_id": f"user_{mark}"},
            ) as events:
                final = events.get_final_message()
                answers.append(seen(events.response.headers, final))
            call = {"type": "tool_use", "id": f"toolu_{turn}", "name": "Read", "input": {"path": f"/home/{turn}.py"}}
            result = {"type": "tool_result", "tool_use_id": f"toolu_{turn}", "content": f"{turn}\n{RESULT}"}
            said = {"type": "text", "text": answers[-1]["text"]}
            messages += [{"role": "assistant", "content": [said, call]}, {"role": "user", "content": [result]}]
    return answers


def message_error(options: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    """options: of the client. fields: of the body."""
    with connect(**(options or {})) as client:
        body = {"model": "sim", "max_tokens": 4, "messages": [{"role": "user", "content": "Hello"}], **fields}
        return raised(lambda: client.messages.create(**body))


def stream_error(text: str, headers: dict[str, str]) -> dict[str, Any]:
    """What a stream raises that had begun."""
    with connect(default_headers=headers) as client:
        messages: Any = [{"role": "user", "content": text}]
        return raised(lambda: list(client.messages.create(model="sim", messages=messages, max_tokens=4, stream=True)))


def use_up(key: str, most: int) -> dict[str, Any]:
    """Ask without retries until nothing is left of a key's minute; the error."""
    asked = (message_error({"api_key": key}) for _ in range(most))
    return next((error for error in asked if error["class"]), {"class": ""})


def wait_for_key(key: str, most: int) -> int:
    """Ask until the client has waited for a key by itself; its retries."""
    asked = (message("Hurry", api_key=key, max_retries=4)["retries"] for _ in range(most))
    return next((retries for retries in asked if retries), 0)


def many_at_once(count: int) -> list[str]:
    """The asynchronous client."""

    async def ask(client: anthropic.AsyncAnthropic, number: int) -> str:
        answer = await client.messages.create(
            model="sim", max_tokens=8, messages=[{"role": "user", "content": f"Question {number}"}]
        )
        return answer.stop_reason or ""

    async def all_of_them() -> list[str]:
        async with anthropic.AsyncAnthropic(timeout=TIMEOUT_S, max_retries=0) as client:
            return list(await asyncio.gather(*(ask(client, number) for number in range(count))))

    return asyncio.run(all_of_them())


def tool_call(model: str) -> dict[str, Any]:
    """Streamed: a tool that must be called; its result is sent back."""
    where = {"type": "string", "enum": ["Ulm", "Bonn"]}
    schema = {"type": "object", "properties": {"city": where}, "required": ["city"], "additionalProperties": False}
    tool: Any = {"name": "get_weather", "strict": True, "input_schema": schema}
    messages: list[Any] = [{"role": "user", "content": "How is the weather in Ulm?"}]
    with connect() as client:
        with client.messages.stream(
            model=model,
            messages=messages,
            tools=[tool],
            tool_choice={"type": "tool", "name": "get_weather"},
            max_tokens=1000,
            extra_body={"temperature": 1.8},  # a model of random weights comes to an end of its blanks
        ) as events:
            final = events.get_final_message()
        (call,) = (block for block in final.content if block.type == "tool_use")
        messages += [
            {"role": "assistant", "content": [call.model_dump(include={"type", "id", "name", "input"})]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": call.id, "content": "Fog"}]},
        ]
        after = client.messages.create(model=model, messages=messages, tools=[tool], max_tokens=8)
    return {
        "name": call.name,
        "input": call.input,
        "stop_reason": final.stop_reason,
        "tokens_after": after.usage.output_tokens,
    }


def picture(model: str = "sim") -> dict[str, Any]:
    source: Any = {"type": "base64", "media_type": "image/png", "data": base64.b64encode(PICTURE).decode()}
    content: Any = [{"type": "image", "source": source}, {"type": "text", "text": "What is it?"}]
    with connect() as client:
        raw = client.messages.with_raw_response.create(
            model=model, max_tokens=8, messages=[{"role": "user", "content": content}]
        )
        return seen(raw.headers, raw.parse())


if __name__ == "__main__":
    serve(
        message,
        stream,
        leave_stream,
        count_tokens,
        agent_turns,
        message_error,
        stream_error,
        use_up,
        wait_for_key,
        many_at_once,
        tool_call,
        picture,
    )
