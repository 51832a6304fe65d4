"""The answers of /v1/chat/completions and /v1/completions, in the shapes of vLLM's."""

import time
import uuid
from collections.abc import Sequence

import msgspec

from dualmap.instances.simulated.answer import ABORTED, chunked
from dualmap.instances.simulated.generation import Choice, Generation
from dualmap.instances.simulated.media import TOKEN_BYTES

DONE = chunked(b"data: [DONE]\n\n")
ANY_TOKEN = b"\0" * TOKEN_BYTES  # most tokens are as long; JSON escapes this one, so that it occurs nowhere else


END = b"]}\n\n"  # of an event that tells no usage
NO_IDS, NO_PROMPT_IDS = b',"token_ids":null', b',"stop_reason":null,"prompt_token_ids":null'


class StreamOptions(msgspec.Struct):
    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


class OpenAIShape:
    """What is the same in all events of one answer is encoded once. prompt_ids: of each prompt; None: the ids of tokens
    are not asked for."""

    content_type = b"application/json"

    def __init__(
        self,
        generation: Generation,
        options: StreamOptions | None,
        prompt_ids: Sequence[Sequence[int]] | None,
        *,
        chat: bool,
    ) -> None:
        self.id = f"{'chatcmpl' if chat else 'cmpl'}-{uuid.uuid4().hex}"
        self._generation = generation
        self._chat = chat
        self._prompt_ids = prompt_ids
        self._include_usage = options is not None and bool(options.include_usage)
        self._continuous = self._include_usage and options is not None and bool(options.continuous_usage_stats)
        self._about = {
            "id": self.id,
            "object": "chat.completion" if chat else "text_completion",
            "created": int(time.time()),
            "model": generation.model,
        }
        kind = "chat.completion.chunk" if chat else "text_completion"
        about = msgspec.json.encode(self._about | {"object": kind})
        self._start = b"data: " + about[:-1] + b',"choices":['
        self._frames = [self._token_frame(index) for index in range(len(generation.choices))]

    def opening(self) -> bytes:
        return b""

    def first(self, index: int) -> bytes:
        """vLLM sends the roles with a chat's first token, all of them; a completion has none."""
        if not self._chat or index:
            return b""
        delta = b'{"index":%d,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}'
        end = self._usage_end(index, 0) if self._continuous else END
        end = end[:-3] + b',"prompt_token_ids":%b,"prompt_text":null}\n\n' % self._ids_of_prompt(0)
        return b"".join(chunked(self._start + delta % each + end) for each in range(self._generation.n))

    def token(self, index: int, text: bytes, produced: Sequence[int]) -> bytes:
        if self._continuous or self._prompt_ids or len(text) != TOKEN_BYTES:
            return self._event(index, text, b"null", produced)
        head, tail = self._frames[index]
        return head + text + tail

    def last(self, index: int, text: bytes, produced: Sequence[int], reason: str) -> bytes:
        stop_reason = b',"stop_reason":null' if self._chat else b""
        told = b'"%b"%b' % (reason.encode(), stop_reason)
        return self._event(index, text, told, produced, tokens=int(reason != ABORTED))

    def ending(self, produced: Sequence[int], reasons: Sequence[str]) -> bytes:
        if not self._include_usage:
            return DONE
        usage = msgspec.json.encode(usage_of(self._generation, sum(produced)))
        return chunked(self._start + b'],"usage":' + usage + b"}\n\n") + DONE

    def plain(self, produced: Sequence[int], reasons: Sequence[str]) -> bytes:
        choices = zip(self._generation.choices, produced, reasons, strict=True)
        body: dict[str, object] = self._about | {
            "choices": [self._choice(i, choice, tokens, reason) for i, (choice, tokens, reason) in enumerate(choices)],
            "usage": usage_of(self._generation, sum(produced)),
        }
        if self._generation.lent is not None:
            body["kv_transfer_params"] = self._generation.lent
        if self._chat and self._prompt_ids is not None:
            body["prompt_token_ids"] = self._prompt_ids[0]
        return msgspec.json.encode(body)

    def _token_frame(self, index: int) -> tuple[bytes, bytes]:
        """What stands around each token of a choice but its last, HTTP chunk included."""
        event = self._framed(index, ANY_TOKEN, b"null", END, self._ids(index, 0, 0))
        head, _, tail = chunked(event).partition(ANY_TOKEN)
        return head, tail

    def _event(self, index: int, text: bytes, reason: bytes, produced: Sequence[int], tokens: int = 1) -> bytes:
        end = self._usage_end(index, produced[index]) if self._continuous else END
        return chunked(self._framed(index, text, reason, end, self._ids(index, produced[index], tokens)))

    def _framed(self, index: int, text: bytes, reason: bytes, end: bytes, ids: bytes) -> bytes:
        """reason, ids: JSON."""
        content = b'"delta":{"content":"%b"}' if self._chat else b'"text":"%b"'
        choice = b'{"index":%d,' + content + b',"logprobs":null,"finish_reason":%b%b}'
        return self._start + choice % (index, text, reason, ids) + end

    def _ids(self, index: int, produced: int, tokens: int) -> bytes:
        """JSON of the last tokens of a choice, and of the prompt with a completion's first ones."""
        if self._prompt_ids is None:
            return NO_IDS if self._chat else NO_PROMPT_IDS + NO_IDS
        ids = b',"token_ids":' + msgspec.json.encode(self._generation.choices[index].ids(produced - tokens, produced))
        if self._chat:
            return ids
        prompt = self._ids_of_prompt(index // self._generation.n) if produced == tokens else b"null"
        return b',"stop_reason":null,"prompt_token_ids":' + prompt + ids

    def _ids_of_prompt(self, number: int) -> bytes:
        """JSON."""
        return b"null" if self._prompt_ids is None else msgspec.json.encode(self._prompt_ids[number])

    def _usage_end(self, index: int, produced: int) -> bytes:
        """Of an event that tells the usage so far, of its own choice."""
        prompt = self._generation.choices[index].prompt_tokens
        usage = {"prompt_tokens": prompt, "total_tokens": prompt + produced, "completion_tokens": produced}
        return b'],"usage":' + msgspec.json.encode(usage) + b"}\n\n"

    def _choice(self, index: int, choice: Choice, tokens: int, reason: str) -> dict[str, object]:
        text = choice.text(tokens)
        content = {"message": {"role": "assistant", "content": text}} if self._chat else {"text": text}
        told: dict[str, object] = {"index": index, **content, "logprobs": None, "finish_reason": reason}
        if self._prompt_ids is not None:
            told["token_ids"] = choice.ids(0, tokens)
            if not self._chat:
                told["prompt_token_ids"] = self._prompt_ids[index // self._generation.n]
        return told


def usage_of(generation: Generation, completion_tokens: int) -> dict[str, object]:
    details: dict[str, object] = {"cached_tokens": generation.cached_tokens}
    if generation.media_tokens:
        details["multimodal_tokens"] = generation.media_tokens
    return {
        "prompt_tokens": generation.prompt_tokens,
        "total_tokens": generation.prompt_tokens + completion_tokens,
        "completion_tokens": completion_tokens,
        "prompt_tokens_details": details,
    }
