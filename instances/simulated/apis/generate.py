"""/inference/v1/generate: token ids in, token ids out. vLLM serves it with --enable-scale-out."""

import time
import uuid
from collections.abc import Sequence
from typing import Any

import msgspec

from dualmap.instances.simulated.answer import ABORTED, chunked
from dualmap.instances.simulated.apis.call import Call, Job
from dualmap.instances.simulated.apis.completions import is_ids
from dualmap.instances.simulated.apis.openai_shape import DONE, StreamOptions, usage_of
from dualmap.instances.simulated.chat_prompt import Prompt
from dualmap.instances.simulated.generation import Generation, Sampling, generation_of
from dualmap.instances.simulated.lenient_body import read_body
from dualmap.instances.simulated.served import Served
from dualmap.instances.simulated.token_ids import pack_ids
from dualmap.router.http.openai_errors import RequestRefusedError, bad_request


class _SamplingParams(msgspec.Struct):
    max_tokens: int | None = None
    min_tokens: int = 0
    ignore_eos: bool = False
    n: int = 1
    temperature: float | None = None


class GenerateBody(msgspec.Struct):
    token_ids: list[int]
    sampling_params: _SamplingParams
    model: str | None = None
    request_id: str = msgspec.field(default_factory=lambda: uuid.uuid4().hex)
    return_token_ids: bool | None = None
    output_mode: str = "tokens"
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    priority: int = 0
    cache_salt: str | None = None
    kv_transfer_params: dict[str, Any] | None = None


def generate(call: Call, served: Served) -> Job:
    """Raises RequestRefusedError as vLLM would answer. Its priority is the body's alone, as with vLLM."""
    body = read_body(GenerateBody, call.body)
    model = served.models.check(body.model)
    if not body.token_ids or not is_ids(body.token_ids):
        raise RequestRefusedError(bad_request("`token_ids` must be token ids, at least one.", "token_ids"))
    if body.output_mode not in ("tokens", "text"):
        raise RequestRefusedError(bad_request("`output_mode` must be 'tokens' or 'text'.", "output_mode"))
    asked = body.sampling_params
    given = asked.max_tokens
    if given is not None and given > 0:  # unlike elsewhere, no more is asked for than the context leaves
        given = max(1, min(given, served.profile.max_model_len - len(body.token_ids)))
    generation = generation_of(
        [Prompt(pack_ids(body.token_ids))],
        Sampling(
            given=given,
            min_tokens=asked.min_tokens,
            ignore_eos=asked.ignore_eos,
            n=asked.n,
            temperature=asked.temperature,
        ),
        model=model,
        root=served.models.root(model),
        profile=served.profile,
        stream=bool(body.stream),
        priority=body.priority,
        cache_salt=body.cache_salt,
        kv_transfer_params=body.kv_transfer_params,
    )
    return Job(generation, _GenerateShape(generation, body))


class _GenerateShape:
    content_type = b"application/json"

    def __init__(self, generation: Generation, body: GenerateBody) -> None:
        self.id = uuid.uuid4().hex
        self._request_id = f"generate-tokens-{body.request_id}"
        self._generation = generation
        self._text = body.output_mode == "text"
        self._include_usage = body.stream_options is not None and bool(body.stream_options.include_usage)
        self._prompt_ids = body.token_ids if body.return_token_ids else None
        self._tell_prompt = self._prompt_ids is not None

    def opening(self) -> bytes:
        return b""

    def first(self, index: int) -> bytes:
        return b""

    def token(self, index: int, text: bytes, produced: Sequence[int]) -> bytes:
        return self._event([self._choice(index, produced[index] - 1, produced[index], text.decode(), None)])

    def last(self, index: int, text: bytes, produced: Sequence[int], reason: str) -> bytes:
        start = produced[index] - (reason != ABORTED)
        return self._event([self._choice(index, start, produced[index], text.decode(), reason)])

    def ending(self, produced: Sequence[int], reasons: Sequence[str]) -> bytes:
        if not self._include_usage:
            return DONE
        return self._event([], usage_of(self._generation, sum(produced))) + DONE

    def plain(self, produced: Sequence[int], reasons: Sequence[str]) -> bytes:
        choices = self._generation.choices
        unused = ("ec_transfer_params", "prompt_logprobs", "prompt_token_id_logprobs", "mm_placeholders", "metrics")
        return msgspec.json.encode(
            {
                "request_id": self._request_id,
                "model": self._generation.model,
                "created": int(time.time()),
                "usage": usage_of(self._generation, sum(produced)),
                "prompt_token_ids": self._prompt_ids,
                **dict.fromkeys(unused),
                "kv_transfer_params": self._generation.lent,
                "output_mode": "text" if self._text else "tokens",
                "choices": [
                    self._choice(i, 0, tokens, choice.text(tokens), reason)
                    for i, (choice, tokens, reason) in enumerate(zip(choices, produced, reasons, strict=True))
                ],
            }
        )

    def _choice(self, index: int, start: int, end: int, text: str, reason: str | None) -> dict[str, Any]:
        """Of the tokens from start to end."""
        versions = None if reason is None else [{"version": "default", "start": 0, "end": end}]
        return {
            "index": index,
            "finish_reason": reason,
            "stop_reason": None,
            "token_ids": self._generation.choices[index].ids(start, end),
            "routed_experts": None,
            "sampling_mask": None,
            "weight_versions": versions,
            **({"text": text} if self._text else {}),
            "logprobs": None,
        }

    def _event(self, choices: list[dict[str, Any]], usage: dict[str, Any] | None = None) -> bytes:
        """The first event tells the prompt's ids, if they were asked for."""
        prompt = {"prompt_token_ids": self._prompt_ids} if self._tell_prompt else {}
        self._tell_prompt = False
        mode = {"output_mode": "text" if self._text else "tokens", "choices": choices}
        return chunked(
            b"data: %b\n\n" % msgspec.json.encode({"request_id": self._request_id, "usage": usage} | prompt | mode)
        )
