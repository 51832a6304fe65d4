"""/v1/chat/completions."""

import msgspec

from dualmap.instances.simulated.apis.call import Call, Job
from dualmap.instances.simulated.apis.openai_body import GenerationBody, Message, ToolBody
from dualmap.instances.simulated.apis.openai_shape import OpenAIShape
from dualmap.instances.simulated.chat_prompt import ChatMessage, Prompt, render_chat
from dualmap.instances.simulated.generation import generation_of
from dualmap.instances.simulated.lenient_body import read_body
from dualmap.instances.simulated.served import Served
from dualmap.instances.simulated.token_ids import to_ids
from dualmap.router.http.openai_errors import RequestRefusedError, bad_request


class ChatBody(GenerationBody):
    messages: list[Message] = msgspec.field(default_factory=list)
    max_completion_tokens: int | None = None
    tools: list[ToolBody] | None = None
    add_generation_prompt: bool = True
    continue_final_message: bool = False


def read_chat(call: Call, served: Served) -> Job:
    """Raises RequestRefusedError as vLLM would answer."""
    body = read_body(ChatBody, call.body)
    model = served.models.check(body.model)
    prompt = chat_prompt(body, served)
    if body.tools == []:
        raise RequestRefusedError(bad_request("`tools` must not be an empty array.", "tools"))
    body.check_stream_options()
    given = body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens
    generation = generation_of(
        [prompt],
        body.sampling(given, None),
        model=model,
        root=served.models.root(model),
        profile=served.profile,
        stream=bool(body.stream),
        priority=body.priority_of(call),
        cache_salt=body.cache_salt,
        kv_transfer_params=body.kv_transfer_params,
    )
    prompt_ids = [to_ids(prompt.packed)] if body.return_token_ids else None
    return Job(generation, OpenAIShape(generation, body.stream_options, prompt_ids, chat=True))


def chat_prompt(body: ChatBody, served: Served) -> Prompt:
    """Raises RequestRefusedError."""
    messages = read_messages(body.messages)
    if body.continue_final_message and body.add_generation_prompt:
        message = "Cannot set both `continue_final_message` and `add_generation_prompt` to True."
        raise RequestRefusedError(bad_request(message))
    return render_chat(
        messages,
        [tool.tool() for tool in body.tools or ()],
        served.media,
        add_generation_prompt=body.add_generation_prompt,
        continue_final_message=body.continue_final_message,
    )


def read_messages(messages: list[Message]) -> list[ChatMessage]:
    """Raises RequestRefusedError."""
    if not messages:
        raise RequestRefusedError(bad_request("`messages` must not be empty.", "messages"))
    return [message.read() for message in messages]
