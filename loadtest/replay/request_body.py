"""The bytes of a replayed request.

The prompt goes into the body as it is, in one string, so that prompts which share blocks share the bytes of `messages`
(or `prompt`) up to the same place. Chat requests carry it as one user message: a trace does not tell its turns. To
`prompt` it can go as token ids, which every server counts alike.
"""

import json

from dualmap.loadtest.traces.text import prompt_bytes, prompt_token_ids
from dualmap.loadtest.traces.trace import TraceRequest

CHAT_PATH = "/v1/chat/completions"
COMPLETIONS_PATH = "/v1/completions"


class RequestBytes:
    """Builds requests for one target, path and model.

    Connections are not reused: each request has its own, as from users apart, so that its failure is its own.
    """

    def __init__(self, host: str, path: str, model: str, *, token_ids: bool = False) -> None:
        self._token_ids = token_ids
        self._head = (
            f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
            "Accept: text/event-stream\r\nConnection: close\r\nContent-Length: "
        ).encode("latin-1")
        text = "" if token_ids else '"'
        opening = '[{"role":"user","content":"' if path == CHAT_PATH else text
        field = "messages" if path == CHAT_PATH else "prompt"
        self._before = f'{{"model":{json.dumps(model)},"{field}":{opening}'.encode()
        self._after = b'"}]' if path == CHAT_PATH else text.encode()

    def build(self, request: TraceRequest) -> bytes:
        options = (
            b',"max_tokens":%d,"ignore_eos":true,"stream":true,"stream_options":{"include_usage":true}}'
            % request.output_length
        )
        prompt = prompt_token_ids(request) if self._token_ids else prompt_bytes(request)
        body = b"".join((self._before, prompt, self._after, options))
        return b"%s%d\r\n\r\n%s" % (self._head, len(body), body)
