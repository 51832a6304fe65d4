"""/v1/responses: made, looked up, cancelled, with a store of what was made."""

from typing import Any

import msgspec

from dualmap.instances.simulated.apis.call import Call, Job, Reply
from dualmap.instances.simulated.apis.responses_input import read_input, read_tools
from dualmap.instances.simulated.apis.responses_shape import ResponsesShape
from dualmap.instances.simulated.chat_prompt import ChatMessage, render_chat
from dualmap.instances.simulated.generation import Sampling, generation_of
from dualmap.instances.simulated.lenient_body import read_body
from dualmap.instances.simulated.response_store import StoredResponse
from dualmap.instances.simulated.served import Served
from dualmap.router.http.openai_errors import HttpError, RequestRefusedError, bad_request

UNFINISHED = ("queued", "in_progress")


class ResponsesBody(msgspec.Struct):
    input: str | list[dict[str, Any]]
    model: str | None = None
    instructions: str | None = None
    max_output_tokens: int | None = None
    ignore_eos: bool = False
    temperature: float | None = None
    top_p: float | None = None
    stream: bool | None = False
    store: bool | None = True
    background: bool = False
    previous_response_id: str | None = None
    tools: list[dict[str, Any]] = []
    tool_choice: str | dict[str, Any] = "auto"
    parallel_tool_calls: bool | None = True
    priority: int = 0
    metadata: dict[str, str] | None = None
    prompt: Any = None
    reasoning: dict[str, Any] | None = None
    service_tier: str = "auto"
    text: dict[str, Any] | None = None
    truncation: str = "disabled"
    user: str | None = None
    cache_salt: str | None = None
    kv_transfer_params: dict[str, Any] | None = None


def create_response(call: Call, served: Served) -> Job:
    """Raises RequestRefusedError as vLLM would answer."""
    body = read_body(ResponsesBody, call.body)
    model = served.models.check(body.model)
    _check(body, served)
    messages = _messages(body, served)
    if not messages:
        raise RequestRefusedError(bad_request("Cannot apply chat template to an empty conversation.", "input"))
    prompt = render_chat(messages, read_tools(body.tools), served.media)
    generation = generation_of(
        [prompt],
        Sampling(given=body.max_output_tokens, ignore_eos=body.ignore_eos, temperature=body.temperature),
        model=model,
        root=served.models.root(model),
        profile=served.profile,
        stream=bool(body.stream),
        priority=body.priority if call.priority is None else call.priority,
        cache_salt=body.cache_salt,
        kv_transfer_params=body.kv_transfer_params,
    )
    store = served.store if body.store else None
    shape = ResponsesShape(generation, _echo(body), store, messages)
    if not body.background or body.stream:  # who streams has its client waiting
        return Job(generation, shape)
    return Job(generation, shape, plain_now=shape.queued())


def get_response(call: Call, served: Served) -> Reply:
    """Raises RequestRefusedError."""
    return Reply(msgspec.json.encode(find_response(call.item, served).response))


def find_response(response_id: str, served: Served) -> StoredResponse:
    """Raises RequestRefusedError."""
    stored = None if served.store is None else served.store.get(response_id)
    if stored is None:
        not_found = f"Response with id '{response_id}' not found."
        raise RequestRefusedError(_invalid(not_found, "response_id", status=404))
    return stored


def check_cancel(stored: StoredResponse) -> None:
    """Raises RequestRefusedError if there is nothing to cancel."""
    if stored.response["status"] not in UNFINISHED:
        raise RequestRefusedError(_invalid("Cannot cancel a synchronous response.", "response_id"))


def _invalid(message: str, param: str, status: int = 400) -> HttpError:
    error = bad_request(message, param)
    return HttpError(type(error.status)(status), "invalid_request_error", message, param)


def _check(body: ResponsesBody, served: Served) -> None:
    """Raises RequestRefusedError."""
    if body.background and not body.store:
        raise RequestRefusedError(bad_request("background can only be used when `store` is true", "background"))
    if body.background and served.store is None:
        message = "This engine does not keep responses and therefore does not support the background mode."
        raise RequestRefusedError(_invalid(message, "background"))
    if body.prompt is not None:
        raise RequestRefusedError(bad_request("prompt template is not supported", "prompt"))
    if body.truncation not in ("auto", "disabled"):
        raise RequestRefusedError(bad_request("`truncation` must be 'auto' or 'disabled'.", "truncation"))
    if body.tool_choice == "required" and not body.tools:
        message = "Tool choice 'required' must be specified with 'tools' parameter."
        raise RequestRefusedError(bad_request(message, "tool_choice"))


def _messages(body: ResponsesBody, served: Served) -> tuple[ChatMessage, ...]:
    """Instructions are of one response: those of the response before do not count any more."""
    before: tuple[ChatMessage, ...] = ()
    if body.previous_response_id is not None:
        stored = find_response(body.previous_response_id, served)
        before = tuple(message for message in stored.messages if message.role != "system")
        texts = (part["text"] for item in stored.response["output"] for part in item["content"])
        before += tuple(ChatMessage("assistant", (text,)) for text in texts)
    instructions = (ChatMessage("system", (body.instructions,)),) if body.instructions else ()
    return (*instructions, *before, *read_input(body.input))


def _echo(body: ResponsesBody) -> dict[str, Any]:
    """The fields of the request that the response repeats."""
    return {
        "instructions": body.instructions,
        "metadata": body.metadata,
        "parallel_tool_calls": body.parallel_tool_calls is not False,
        "temperature": 1.0 if body.temperature is None else body.temperature,
        "tool_choice": body.tool_choice if body.tools else "none",
        "tools": body.tools,
        "top_p": 1.0 if body.top_p is None else body.top_p,
        "background": body.background,
        "previous_response_id": body.previous_response_id,
        "reasoning": body.reasoning,
        "service_tier": body.service_tier,
        "text": body.text,
        "truncation": body.truncation,
        "user": body.user,
    }
