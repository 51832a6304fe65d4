"""langchain-openai. Address and key come from OPENAI_BASE_URL and OPENAI_API_KEY."""

import asyncio
from typing import Any

from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from served import serve

TIMEOUT_S = 120.0
LOOP = asyncio.new_event_loop()  # one for all: connections of all models are shared
RULES = "You are an agent that looks things up. You name your sources. " * 60


def connect(model: str, **options: Any) -> ChatOpenAI:
    return ChatOpenAI(
        model=model,
        timeout=TIMEOUT_S,
        include_response_headers=True,
        stream_usage=True,
        **{"max_retries": 0, "max_tokens": 8, **options},
    )


def seen(message: Any) -> dict[str, Any]:
    usage = message.usage_metadata
    return {
        "instance": message.response_metadata["headers"]["x-dualmap-instance"],
        "text": message.text,
        "input_tokens": usage["input_tokens"],
        "cached_tokens": usage["input_token_details"].get("cache_read", 0),
    }


def turns(name: str, count: int, responses: bool = False, model: str = "sim") -> list[dict[str, Any]]:
    """An agent that calls a tool each turn. responses: over /v1/responses."""
    llm = connect(model, use_responses_api=responses).bind_tools([look_up])
    messages: list[Any] = [SystemMessage(f"You help {name}. {RULES}"), HumanMessage(f"What of {name}?")]
    answers = []
    for turn in range(count):
        message = llm.invoke(messages)
        answers.append(seen(message))
        call = {"name": "look_up", "args": {"what": f"{turn}"}, "id": f"call_{turn}"}
        messages.append(AIMessage(message.text, tool_calls=[call]))
        messages.append(ToolMessage(f"Nothing about {turn}. " * 30, tool_call_id=f"call_{turn}"))
    return answers


def look_up(what: str) -> str:
    """Look something up."""
    return what


def both(text: str, responses: bool = False, model: str = "sim") -> dict[str, str]:
    """The answer streamed by the asynchronous calls, and whole."""
    llm = connect(model, use_responses_api=responses)

    async def stream() -> str:
        return "".join([chunk.text async for chunk in llm.astream(text)])

    return {"streamed": LOOP.run_until_complete(stream()), "whole": llm.invoke(text).text}


def batch(texts: list[str], model: str = "sim") -> list[str]:
    return [message.text for message in connect(model).batch(texts)]


def embed(texts: list[str], model: str = "sim") -> list[int]:
    """By texts: token ids would be those of OpenAI's own models."""
    return [
        len(vector) for vector in OpenAIEmbeddings(model=model, check_embedding_ctx_length=False).embed_documents(texts)
    ]


def structured(model: str) -> bool:
    """What a JSON schema allows."""
    schema = {
        "title": "Verdict",
        "type": "object",
        "properties": {"yes": {"type": "boolean"}},
        "required": ["yes"],
        "additionalProperties": False,
    }
    llm = connect(model, max_tokens=64, temperature=0).with_structured_output(schema, method="json_schema")
    return llm.invoke("Is it so?")["yes"]


if __name__ == "__main__":
    serve(turns, both, batch, embed, structured)
