"""/v1/completions."""

from typing import Any

from pydantic import TypeAdapter, ValidationError

from dualmap.instances.simulated.apis.call import Call, Job
from dualmap.instances.simulated.apis.openai_body import GenerationBody
from dualmap.instances.simulated.apis.openai_shape import OpenAIShape
from dualmap.instances.simulated.chat_prompt import Prompt
from dualmap.instances.simulated.generation import MAX_CHOICES, generation_of
from dualmap.instances.simulated.lenient_body import read_body
from dualmap.instances.simulated.served import Served
from dualmap.instances.simulated.token_ids import pack_ids, to_ids
from dualmap.router.http.openai_errors import RequestRefusedError, bad_request

DEFAULT_MAX_TOKENS = 16  # vLLM's
_LENIENT_IDS = TypeAdapter(list[int] | list[list[int]])


class CompletionBody(GenerationBody):
    prompt: str | list[Any] | None = None


def read_completion(call: Call, served: Served) -> Job:
    """Raises RequestRefusedError as vLLM would answer."""
    body = read_body(CompletionBody, call.body)
    model = served.models.check(body.model)
    prompts = [Prompt(packed) for packed in read_prompts(body.prompt)]
    body.check_stream_options()
    generation = generation_of(
        prompts,
        body.sampling(body.max_tokens, DEFAULT_MAX_TOKENS),
        model=model,
        root=served.models.root(model),
        profile=served.profile,
        stream=bool(body.stream),
        priority=body.priority_of(call),
        cache_salt=body.cache_salt,
        kv_transfer_params=body.kv_transfer_params,
    )
    prompt_ids = [to_ids(prompt.packed) for prompt in prompts] if body.return_token_ids else None
    return Job(generation, OpenAIShape(generation, body.stream_options, prompt_ids, chat=False))


def read_prompts(prompt: str | list[Any] | None) -> list[bytes]:
    """Each prompt as bytes, four a token. Raises RequestRefusedError."""
    prompts = _listed(prompt)
    if not _are_prompts(prompts) and isinstance(prompt, list):
        try:
            prompts = _listed(_LENIENT_IDS.validate_python(prompt))
        except ValidationError:
            prompts = []
    if not _are_prompts(prompts) or len(prompts) > MAX_CHOICES:
        what = f"a string, a list of token ids, or a list of up to {MAX_CHOICES} of these"
        raise RequestRefusedError(bad_request(f"`prompt` must be {what}, not empty.", "prompt"))
    return [p.encode() if isinstance(p, str) else pack_ids(p) for p in prompts]


def _listed(prompt: Any) -> list[Any]:
    return [prompt] if isinstance(prompt, str) or is_ids(prompt) else prompt or []


def _are_prompts(prompts: list[Any]) -> bool:
    return bool(prompts) and all(p and (isinstance(p, str) or is_ids(p)) for p in prompts)


def is_ids(prompt: Any) -> bool:
    return isinstance(prompt, list) and all(type(token) is int and 0 <= token < 1 << 32 for token in prompt)
