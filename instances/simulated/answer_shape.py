"""The bytes of a simulated server's answers, in the shapes of vLLM's."""

import time
from collections.abc import Sequence

import msgspec

from dualmap.instances.simulated.request import TOKEN_BYTES, Choice, Generation

STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
    b"cache-control: no-cache\r\ntransfer-encoding: chunked\r\n%b\r\n"
)
ANY_TOKEN = b"\0" * TOKEN_BYTES  # all tokens are as long; JSON escapes this one, so that it occurs nowhere else


def chunked(event: bytes) -> bytes:
    """vLLM, too, sends each event as an HTTP chunk of its own."""
    return b"%x\r\n%b\r\n" % (len(event), event)


DONE_AND_LAST_CHUNK = chunked(b"data: [DONE]\n\n") + b"0\r\n\r\n"


class AnswerShape:
    """What is the same in all events of one answer, encoded once."""

    def __init__(self, answer_id: str, model: str, generation: Generation) -> None:
        self._generation = generation
        self._about = {
            "id": answer_id,
            "object": "chat.completion" if generation.chat else "text_completion",
            "created": int(time.time()),
            "model": model,
        }
        kind = "chat.completion.chunk" if generation.chat else "text_completion"
        about = msgspec.json.encode(self._about | {"object": kind})
        self._start = b"data: " + about[:-1] + b',"choices":['
        self._end = b'],"usage":null}\n\n' if generation.include_usage else b"]}\n\n"

    def token_frame(self, index: int) -> tuple[bytes, bytes]:
        """What stands around each token of a choice but its last, HTTP chunk included."""
        head, _, tail = chunked(self._event(index, ANY_TOKEN, b"null")).partition(ANY_TOKEN)
        return head, tail

    def role_event(self, index: int) -> bytes:
        """vLLM sends it with a chat's first token; a completion has none."""
        if not self._generation.chat:
            return b""
        delta = b'{"index":%d,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}' % index
        return chunked(self._start + delta + self._end)

    def last_event(self, index: int, text: bytes, finish_reason: str) -> bytes:
        return chunked(self._event(index, text, b'"%b"' % finish_reason.encode()))

    def usage_event(self, cached_tokens: int, produced: Sequence[int]) -> bytes:
        usage = msgspec.json.encode(self._usage(cached_tokens, produced))
        return chunked(self._start + b'],"usage":' + usage + b"}\n\n")

    def plain(self, cached_tokens: int, produced: Sequence[int], finish_reasons: Sequence[str]) -> bytes:
        """The whole answer as one JSON object. produced: tokens of each choice."""
        choices = zip(self._generation.choices, produced, finish_reasons, strict=True)
        body = self._about | {
            "choices": [self._choice(i, choice, tokens, reason) for i, (choice, tokens, reason) in enumerate(choices)],
            "usage": self._usage(cached_tokens, produced),
        }
        return msgspec.json.encode(body)

    def _event(self, index: int, text: bytes, finish_reason: bytes) -> bytes:
        """finish_reason: JSON."""
        content = b'"delta":{"content":"%b"}' if self._generation.chat else b'"text":"%b"'
        choice = b'{"index":%d,' + content + b',"logprobs":null,"finish_reason":%b}'
        return self._start + choice % (index, text, finish_reason) + self._end

    def _choice(self, index: int, choice: Choice, tokens: int, finish_reason: str) -> dict[str, object]:
        text = choice.answer[: tokens * TOKEN_BYTES].decode()
        content = {"message": {"role": "assistant", "content": text}} if self._generation.chat else {"text": text}
        return {"index": index, **content, "logprobs": None, "finish_reason": finish_reason}

    def _usage(self, cached_tokens: int, produced: Sequence[int]) -> dict[str, object]:
        prompt_tokens = sum(choice.prompt_tokens for choice in self._generation.choices)
        return {
            "prompt_tokens": prompt_tokens,
            "total_tokens": prompt_tokens + sum(produced),
            "completion_tokens": sum(produced),
            "prompt_tokens_details": {"cached_tokens": cached_tokens},
        }
