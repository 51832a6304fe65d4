"""LiteLLM as a library: its providers openai, hosted_vllm and anthropic, and its router of several deployments."""

import asyncio
import os
from typing import Any

import litellm
from served import serve

TIMEOUT_S = 120.0
LOOP = asyncio.new_event_loop()
URL = os.environ["OPENAI_BASE_URL"]
ROOT = os.environ["ANTHROPIC_BASE_URL"]
KEY = os.environ["OPENAI_API_KEY"]
RULES = "You answer in few words, and you never guess what a file holds. " * 60


def common(provider: str, model: str) -> dict[str, Any]:
    """LiteLLM puts /v1/messages behind an address of Anthropic's itself."""
    base = ROOT if provider == "anthropic" else URL
    return {"model": f"{provider}/{model}", "api_base": base, "api_key": KEY, "timeout": TIMEOUT_S}


def instance_of(answer: Any) -> str | None:
    """LiteLLM hands on the headers of the server under names of its own."""
    hidden = answer._hidden_params
    headers = {**(hidden.get("headers") or {}), **(hidden.get("additional_headers") or {})}
    return headers.get("x-dualmap-instance") or headers.get("llm_provider-x-dualmap-instance")


def turns(provider: str, name: str, count: int, model: str = "sim") -> list[dict[str, Any]]:
    messages: list[Any] = [{"role": "system", "content": f"You help {name}. {RULES}"}]
    answers = []
    for turn in range(count):
        messages.append({"role": "user", "content": f"Turn {turn} of {name}. " * 30})
        answer = litellm.completion(**common(provider, model), messages=messages, max_tokens=8)
        messages.append({"role": "assistant", "content": answer.choices[0].message.content})
        details = answer.usage.prompt_tokens_details
        answers.append(
            {
                "instance": instance_of(answer),
                "prompt_tokens": answer.usage.prompt_tokens,
                "cached_tokens": (details.cached_tokens if details else None) or 0,
            }
        )
    return answers


def both(provider: str, text: str, model: str = "sim") -> dict[str, Any]:
    """The answer streamed by the asynchronous calls, and whole."""
    messages = [{"role": "user", "content": text}]

    async def stream() -> str:
        chunks = await litellm.acompletion(**common(provider, model), messages=messages, max_tokens=16, stream=True)
        return "".join([chunk.choices[0].delta.content or "" async for chunk in chunks])

    streamed = LOOP.run_until_complete(stream())
    whole = litellm.completion(**common(provider, model), messages=messages, max_tokens=16)
    return {"streamed": streamed, "whole": whole.choices[0].message.content}


def response(text: str, model: str = "sim") -> dict[str, Any]:
    """Over /v1/responses, and one that follows it."""
    first = litellm.responses(**common("openai", model), input=text, max_output_tokens=16)
    second = litellm.responses(
        **common("openai", model), input="Go on", max_output_tokens=16, previous_response_id=first.id
    )
    return {"status": first.status, "tokens": [first.usage.input_tokens, second.usage.input_tokens]}


def embedding(texts: list[str], model: str = "sim") -> list[int]:
    answer = litellm.embedding(**common("openai", model), input=texts, encoding_format="float")
    return [len(item["embedding"]) for item in answer.data]


def error(provider: str, text: str = "Hello", **fields: Any) -> dict[str, Any]:
    """The class that LiteLLM makes of an error. fields: of its call."""
    try:
        body = {**common(provider, "sim"), "messages": [{"role": "user", "content": text}], "max_tokens": 4, **fields}
        litellm.completion(**body)
    except Exception as raised:
        return {"class": type(raised).__name__, "status": getattr(raised, "status_code", None), "message": str(raised)}
    return {"class": ""}


def routed(text: str, model: str = "sim") -> dict[str, Any]:
    """LiteLLM's router in front of us and of an address where nobody listens."""
    nobody = {**common("openai", model), "api_base": "http://127.0.0.1:9/v1"}
    deployments = [
        {"model_name": "any", "litellm_params": params, "model_info": {"id": name}}
        for name, params in (("nobody", nobody), ("gateway", common("openai", model)))
    ]
    router = litellm.Router(deployments, num_retries=6, allowed_fails=0, cooldown_time=60)
    answers = [
        router.completion(model="any", messages=[{"role": "user", "content": f"{text} {n}"}], max_tokens=4)
        for n in range(6)
    ]
    return {"instances": [instance_of(answer) for answer in answers]}


if __name__ == "__main__":
    serve(turns, both, response, embedding, error, routed)
