"""The official Python client of OpenAI's API. Address and key come from OPENAI_BASE_URL and OPENAI_API_KEY."""

import asyncio
import base64
import hashlib
from typing import Any

import openai
from served import serve

TIMEOUT_S = 120.0
PICTURE = b"\x89PNG\r\n\x1a\n" + b"".join(hashlib.sha256(b"%d" % i).digest() for i in range(96 * 1024))  # 3 MB
SOUND = b"RIFF" + bytes(32_000)
TURN = "Look into the next file and tell what stands there. " * 12
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Of a city, now.",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "enum": ["Ulm", "Bonn"]}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}


def connect(**options: Any) -> openai.OpenAI:
    return openai.OpenAI(**{"timeout": TIMEOUT_S, "max_retries": 0, **options})


def seen(raw: Any, usage: Any) -> dict[str, Any]:
    """Of a chat's raw answer."""
    details = usage.prompt_tokens_details
    return {
        "instance": raw.headers["x-dualmap-instance"],
        "prompt_tokens": usage.prompt_tokens,
        "cached_tokens": details.cached_tokens if details else None,
    }


def raised(call: Any) -> dict[str, Any]:
    """The error that the call raises, as a program would look at it; class "": none."""
    try:
        call()
    except openai.APIError as error:
        shown = {"class": type(error).__name__, "message": str(error)}
        if isinstance(error, openai.APIStatusError):
            headers = {name: error.response.headers.get(name) for name in ("retry-after", "x-request-id")}
            shown |= {"status": error.status_code, "body": error.body, "headers": headers}
        return shown
    return {"class": ""}


def models(model_key: str | None = None) -> list[str]:
    with connect(**({"api_key": model_key} if model_key else {})) as client:
        return sorted(model.id for model in client.models.list())


def chat(text: str, model: str = "sim", max_tokens: int = 8, **options: Any) -> dict[str, Any]:
    """options: of the client."""
    with connect(**options) as client:
        messages = [{"role": "user", "content": text}]
        raw = client.chat.completions.with_raw_response.create(model=model, messages=messages, max_tokens=max_tokens)
        answer = raw.parse()
        return {
            **seen(raw, answer.usage),
            "text": answer.choices[0].message.content,
            "finish_reason": answer.choices[0].finish_reason,
            "retries": raw.retries_taken,
            "headers": dict(raw.headers),
        }


def chat_turns(name: str, turns: int, model: str = "sim") -> list[dict[str, Any]]:
    """A chat that grows, streamed as people see it."""
    messages: list[Any] = [{"role": "system", "content": f"You help {name}. " * 60}]
    answers = []
    with connect() as client:
        for turn in range(turns):
            messages.append({"role": "user", "content": f"Turn {turn}. {TURN}"})
            raw = client.chat.completions.with_raw_response.create(
                model=model, messages=messages, max_tokens=8, stream=True, stream_options={"include_usage": True}
            )
            chunks = list(raw.parse())
            text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
            messages.append({"role": "assistant", "content": text})
            answers.append(seen(raw, chunks[-1].usage))
    return answers


def chat_stream(text: str, model: str = "sim", max_tokens: int = 16, **fields: Any) -> dict[str, Any]:
    with connect() as client:
        messages = [{"role": "user", "content": text}]
        stream = client.chat.completions.create(
            model=model, messages=messages, max_tokens=max_tokens, stream=True, **fields
        )
        chunks = list(stream)
    return {
        "text": "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices),
        "finish_reasons": [c.finish_reason for chunk in chunks for c in chunk.choices if c.finish_reason],
        "usages": sum(chunk.usage is not None for chunk in chunks),
    }


def leave_stream(text: str, after: int) -> int:
    """Close a stream after so many chunks of very many."""
    with connect() as client:
        stream = client.chat.completions.create(
            model="sim",
            messages=[{"role": "user", "content": text}],
            max_tokens=50_000,
            stream=True,
            extra_body={"ignore_eos": True},
        )
        with stream:
            for count, _ in enumerate(stream, 1):
                if count == after:
                    return count
    return 0


def give_up(text: str, timeout: float) -> dict[str, Any]:
    """A plain answer that takes longer than the client waits."""
    with connect(timeout=timeout) as client:
        messages: Any = [{"role": "user", "content": text}]
        extra = {"ignore_eos": True}
        return raised(
            lambda: client.chat.completions.create(model="sim", messages=messages, max_tokens=50_000, extra_body=extra)
        )


def chat_error(text: str = "Hello", options: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    """options: of the client. fields: of the body."""
    with connect(**(options or {})) as client:
        body = {"model": "sim", "max_tokens": 4, "messages": [{"role": "user", "content": text}], **fields}
        return raised(lambda: client.chat.completions.create(**body))


def stream_error(text: str, headers: dict[str, str]) -> dict[str, Any]:
    """What a stream raises that had begun."""
    with connect(default_headers=headers) as client:
        messages: Any = [{"role": "user", "content": text}]
        return raised(
            lambda: list(client.chat.completions.create(model="sim", messages=messages, max_tokens=4, stream=True))
        )


def use_up(key: str, most: int) -> dict[str, Any]:
    """Ask without retries until nothing is left of a key's minute; the error."""
    asked = (chat_error(options={"api_key": key}) for _ in range(most))
    return next((error for error in asked if error["class"]), {"class": ""})


def wait_for_key(key: str, most: int) -> int:
    """Ask until the client has waited for a key by itself; its retries."""
    asked = (chat("Hurry", api_key=key, max_retries=4)["retries"] for _ in range(most))
    return next((retries for retries in asked if retries), 0)


def many_at_once(sessions: int, questions: int) -> list[list[dict[str, Any]]]:
    """The asynchronous client: all questions of all sessions at once, each session with a long opening of its own."""

    async def ask(client: openai.AsyncOpenAI, session: int, question: int) -> dict[str, Any]:
        messages: Any = [
            {"role": "system", "content": f"Session {session} has these rules. " * 80},
            {"role": "user", "content": f"Question {question}"},
        ]
        raw = await client.chat.completions.with_raw_response.create(model="sim", messages=messages, max_tokens=8)
        return seen(raw, raw.parse().usage)

    async def all_of_them() -> list[list[dict[str, Any]]]:
        async with openai.AsyncOpenAI(timeout=TIMEOUT_S, max_retries=0) as client:
            asked = [asyncio.gather(*(ask(client, s, q) for q in range(questions))) for s in range(sessions)]
            return [list(answers) for answers in await asyncio.gather(*asked)]

    return asyncio.run(all_of_them())


def completion(prompt: Any, model: str = "sim") -> dict[str, Any]:
    with connect() as client:
        plain = client.completions.create(model=model, prompt=prompt, max_tokens=6, temperature=0)
        chunks = list(client.completions.create(model=model, prompt=prompt, max_tokens=6, temperature=0, stream=True))
    streamed = "".join(choice.text for chunk in chunks for choice in chunk.choices)
    return {"texts": [choice.text for choice in plain.choices], "streamed": streamed}


def choices(n: int, model: str = "sim") -> list[int]:
    with connect() as client:
        messages: Any = [{"role": "user", "content": "Toss a coin"}]
        answer = client.chat.completions.create(model=model, messages=messages, n=n, max_tokens=8, temperature=1.0)
    return sorted(choice.index for choice in answer.choices)


def picture_turns(turns: int, model: str = "sim", **options: Any) -> list[dict[str, Any]]:
    """A chat about a picture of 3 MB, which each turn brings again. options: of the client."""
    url = "data:image/png;base64," + base64.b64encode(PICTURE).decode()
    content = [
        {"type": "image_url", "image_url": {"url": url}},
        {"type": "text", "text": "What is in the picture? " * 80},
    ]
    messages: list[Any] = [{"role": "user", "content": content}]
    answers = []
    with connect(**options) as client:
        for _ in range(turns):
            raw = client.chat.completions.with_raw_response.create(model=model, messages=messages, max_tokens=8)
            answer = raw.parse()
            answers.append(seen(raw, answer.usage))
            messages.append({"role": "assistant", "content": answer.choices[0].message.content})
            messages.append({"role": "user", "content": "Go on."})
    return answers


def embeddings(texts: list[str], model: str = "sim") -> dict[str, Any]:
    with connect() as client:
        raw = client.embeddings.with_raw_response.create(model=model, input=texts)
        answer = raw.parse()
    return {
        "instance": raw.headers["x-dualmap-instance"],
        "lengths": [len(item.embedding) for item in answer.data],
        "first": answer.data[0].embedding[:4],
        "prompt_tokens": answer.usage.prompt_tokens,
    }


def audio(model: str = "sim") -> dict[str, Any]:
    """A file and its model in a multipart form."""
    with connect() as client:
        raw = client.audio.transcriptions.with_raw_response.create(model=model, file=("a.wav", SOUND))
        transcribed = raw.parse().text
        translated = client.audio.translations.create(model=model, file=("a.wav", SOUND)).text
    return {"instance": raw.headers["x-dualmap-instance"], "transcribed": transcribed, "translated": translated}


def tool_call(model: str) -> dict[str, Any]:
    """A tool that must be called, whole and streamed, and its result sent back. A model of random weights comes to an
    end of its blanks only where it is hot."""
    messages: list[Any] = [{"role": "user", "content": "How is the weather in Ulm?"}]
    forced: Any = {"type": "function", "function": {"name": "get_weather"}}
    hot: Any = {"max_tokens": 1000, "temperature": 1.8, "seed": 1}
    body: Any = {"model": model, "tools": [WEATHER], "tool_choice": forced, **hot}
    name, arguments, call_id = "", "", ""
    with connect() as client:
        whole = client.chat.completions.create(messages=messages, **body)
        for chunk in client.chat.completions.create(messages=messages, stream=True, **body):
            for call in chunk.choices[0].delta.tool_calls or []:
                name += call.function.name or ""
                arguments += call.function.arguments or ""
                call_id += call.id or ""
        made = {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}
        messages += [
            {"role": "assistant", "content": None, "tool_calls": [made]},
            {"role": "tool", "tool_call_id": call_id, "content": "Fog"},
        ]
        after = client.chat.completions.create(model=model, messages=messages, tools=[WEATHER], max_tokens=8)
    call = whole.choices[0].message.tool_calls[0].function
    return {
        "whole": [call.name, call.arguments],
        "streamed": [name, arguments],
        "tokens_after": after.usage.completion_tokens,
    }


def structured(model: str) -> str:
    """What a JSON schema allows."""
    schema = {"type": "object", "properties": {"yes": {"type": "boolean"}}, "required": ["yes"]}
    wanted: Any = {
        "type": "json_schema",
        "json_schema": {"name": "answer", "schema": schema | {"additionalProperties": False}},
    }
    with connect() as client:
        messages: Any = [{"role": "user", "content": "Is it so?"}]
        answer = client.chat.completions.create(
            model=model, messages=messages, response_format=wanted, max_tokens=64, temperature=0
        )
    return answer.choices[0].message.content or ""


if __name__ == "__main__":
    serve(
        *(
            models,
            chat,
            chat_turns,
            chat_stream,
            leave_stream,
            give_up,
            chat_error,
            stream_error,
            use_up,
            wait_for_key,
            many_at_once,
            completion,
        ),
        *(choices, picture_turns, embeddings, audio, tool_call, structured),
    )
