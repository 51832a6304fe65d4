"""The bytes of a replayed request.

The prompt goes into the body as it is, in one string, so that prompts which share blocks share the bytes of the body up
to the same place. Chats carry it as one user message, responses as their input: a trace does not tell its turns. To
`prompt` it can go as token ids, which every server counts alike.
"""

import json

from dualmap.loadtest.traces.text import prompt_bytes, prompt_token_ids
from dualmap.loadtest.traces.trace import TraceRequest
from dualmap.router.apis.stream_rules import CHUNK_STREAM, MESSAGES_STREAM, RESPONSES_STREAM, StreamRules

CHAT_PATH = "/v1/chat/completions"
COMPLETIONS_PATH = "/v1/completions"
RESPONSES_PATH = "/v1/responses"
MESSAGES_PATH = "/v1/messages"
PATHS = {
    "chat": CHAT_PATH,
    "completions": COMPLETIONS_PATH,
    "token-ids": COMPLETIONS_PATH,
    "responses": RESPONSES_PATH,
    "messages": MESSAGES_PATH,
}
# What the answers' events mean, by path.
STREAMS: dict[str, StreamRules] = {
    CHAT_PATH: CHUNK_STREAM,
    COMPLETIONS_PATH: CHUNK_STREAM,
    RESPONSES_PATH: RESPONSES_STREAM,
    MESSAGES_PATH: MESSAGES_STREAM,
}
_USAGE = b',"max_tokens":%d,"ignore_eos":true,"stream":true,"stream_options":{"include_usage":true}}'
_USER = ('[{"role":"user","content":"', '"}]')
# By path: the field of the prompt, what stands around it, and what follows.
_SHAPES: dict[str, tuple[str, tuple[str, str], bytes]] = {
    CHAT_PATH: ("messages", _USER, _USAGE),
    COMPLETIONS_PATH: ("prompt", ('"', '"'), _USAGE),
    RESPONSES_PATH: ("input", ('"', '"'), b',"max_output_tokens":%d,"store":false,"stream":true}'),
    MESSAGES_PATH: ("messages", _USER, b',"max_tokens":%d,"stream":true}'),
}


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
        field, (before, after), self._options = _SHAPES[path]
        if token_ids:
            before = after = ""
        self._before = f'{{"model":{json.dumps(model)},"{field}":{before}'.encode()
        self._after = after.encode()

    def build(self, request: TraceRequest) -> bytes:
        prompt = prompt_token_ids(request) if self._token_ids else prompt_bytes(request)
        body = b"".join((self._before, prompt, self._after, self._options % request.output_length))
        return b"%s%d\r\n\r\n%s" % (self._head, len(body), body)
