"""The bytes of a simulated server's answers, in the shapes of vLLM's."""

import time

import msgspec

from instances.sim_request import TOKEN_BYTES, Choice, Generation

STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
    b"cache-control: no-cache\r\ntransfer-encoding: chunked\r\n%b\r\n"
)
DONE = b"data: [DONE]\n\n"
LAST_CHUNK = b"0\r\n\r\n"


def chunked(events: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(events), events)


class AnswerShape:
    """What is the same in all events of one answer, encoded once."""

    def __init__(self, answer_id: str, model: str, generation: Generation) -> None:
        self._generation = generation
        self._answer_id = answer_id
        self._model = model
        self._created = int(time.time())
        kind = "chat.completion.chunk" if generation.chat else "text_completion"
        start = f'data: {{"id":"{answer_id}","object":"{kind}","created":{self._created},"model":"{model}","choices":['
        self._start = start.encode()
        usage = b',"usage":null' if generation.include_usage else b""
        self._end = b"]" + usage + b"}\n\n"

    def first_event(self, index: int) -> bytes:
        """A chat begins with the role; a completion with its first text."""
        if not self._generation.chat:
            return b""
        delta = b'{"index":%d,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}' % index
        return self._start + delta + self._end

    def token_event(self, index: int, position: int, finish_reason: bytes) -> bytes:
        """One token of the answer. finish_reason: JSON, null before the last one."""
        text = self._generation.choices[index].answer[position * TOKEN_BYTES : (position + 1) * TOKEN_BYTES]
        if self._generation.chat:
            choice = b'{"index":%d,"delta":{"content":"%b"},"logprobs":null,"finish_reason":%b}'
        else:
            choice = b'{"index":%d,"text":"%b","logprobs":null,"finish_reason":%b}'
        return self._start + choice % (index, text, finish_reason) + self._end

    def usage_event(self, cached_tokens: int) -> bytes:
        usage = msgspec.json.encode(self._usage(cached_tokens))
        return self._start + b'],"usage":' + usage + b"}\n\n"

    def abort_event(self, index: int) -> bytes:
        delta = b'"delta":{"content":""}' if self._generation.chat else b'"text":""'
        return self._start + b'{"index":%d,%b,"logprobs":null,"finish_reason":"abort"}' % (index, delta) + self._end

    def plain(self, cached_tokens: int, finish_reasons: list[str]) -> bytes:
        """The whole answer as one JSON object."""
        choices = zip(self._generation.choices, finish_reasons, strict=True)
        return msgspec.json.encode(
            {
                "id": self._answer_id,
                "object": "chat.completion" if self._generation.chat else "text_completion",
                "created": self._created,
                "model": self._model,
                "choices": [self._choice(index, c, reason) for index, (c, reason) in enumerate(choices)],
                "usage": self._usage(cached_tokens),
            }
        )

    def _choice(self, index: int, choice: Choice, finish_reason: str) -> dict[str, object]:
        text = choice.answer.decode()
        content = {"message": {"role": "assistant", "content": text}} if self._generation.chat else {"text": text}
        return {"index": index, **content, "logprobs": None, "finish_reason": finish_reason}

    def _usage(self, cached_tokens: int) -> dict[str, object]:
        prompt = sum(choice.prompt_tokens for choice in self._generation.choices)
        output = sum(choice.output_tokens for choice in self._generation.choices)
        return {
            "prompt_tokens": prompt,
            "total_tokens": prompt + output,
            "completion_tokens": output,
            "prompt_tokens_details": {"cached_tokens": cached_tokens},
        }
