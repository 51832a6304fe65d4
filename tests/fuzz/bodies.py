"""Bodies of each API: what is read of them and put into them leaves their meaning alone."""

import json
from typing import Any

from dualmap.router.apis.api import Api
from dualmap.router.apis.read_body import NOT_UNDERSTOOD, Scope
from dualmap.router.apis.routes import find_api
from dualmap.router.apis.transfer_fields import check_transfer_fields
from dualmap.router.http.http_request import HttpRequest
from dualmap.router.http.json_text import in_utf8
from dualmap.router.http.openai_errors import RequestRefusedError
from dualmap.router.requests.asked import Arrived
from dualmap.router.requests.intake import read_prompt, read_session, read_tenant, read_times
from dualmap.router.tokens.token_ratio import TokenRatio
from tests.fuzz.target import Target

PATHS = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/v1/messages",
    "/v1/messages/count_tokens",
    "/inference/v1/generate",
    "/v1/embeddings",
    "/v1/audio/transcriptions",
    "/v1/rerank",
    "/v1/responses/compact",
    "/v1/load_lora_adapter",
)
CONTENT_TYPES = (
    b"application/json",
    b"multipart/form-data; boundary=x",
    b"application/x-www-form-urlencoded",
    b'multipart/form-data; a="; boundary="x"',
)
ALIASES = {"gpt": "qwen", "": "qwen"}
ADDED = ("stream_options", "cache_salt", "model")


def _arrived(kind: int, body: bytes) -> Arrived:
    http = HttpRequest(0.0)
    http.take_target("POST", PATHS[kind % len(PATHS)].encode())
    http.forwarded.append(b"content-type: %b\r\n" % CONTENT_TYPES[kind // len(PATHS) % len(CONTENT_TYPES)])
    api = find_api(http)
    assert isinstance(api, Api)
    return Arrived(id="r", request_id=b"r", http=http, api=api, body=in_utf8(body), at=0.0)


def check(data: bytes) -> None:
    """The first byte chooses path and content type."""
    arrived = _arrived(data[0] if data else 0, data[1:])
    for scope in (Scope(16), Scope(16, apart="tenant", default_model="gpt")):
        try:
            prompt = read_prompt(arrived, scope, TokenRatio(), True, ALIASES)
        except RequestRefusedError:
            continue
        read_session(arrived, prompt.read.session)
        assert prompt.tokens > 0
        assert prompt.block_tokens >= 0
        assert len(prompt.read.blocks) <= len(arrived.body) + 4096, (
            "media stand for more than they are, but within bounds"
        )
        if prompt.read is not NOT_UNDERSTOOD and prompt.read.understood:
            _compare(arrived.body, prompt.body)
    _check_transfer_fields(arrived)
    read_times(arrived.http)
    read_tenant(arrived)


def _check_transfer_fields(arrived: Arrived) -> None:
    """No body in which vLLM finds such a field comes through."""
    try:
        check_transfer_fields(arrived.http, arrived.body)
    except RequestRefusedError:
        return
    body = _object(arrived.body) or {}
    sampling = body.get("sampling_params")
    of_engines = [body.get("vllm_xargs"), sampling.get("extra_args") if isinstance(sampling, dict) else None]
    if b"multipart" not in arrived.http.forwarded[0]:
        for named in (body, *(each for each in of_engines if isinstance(each, dict))):
            assert named.get("kv_transfer_params") is None
            assert named.get("ec_transfer_params") is None


def _compare(client: bytes, instance: bytes) -> None:
    """What the instance gets is what the client sent, but for what the gateway adds. Read as vLLM does."""
    asked, sent = _object(client), _object(instance)
    if asked is None:
        return
    assert sent is not None, "a body that can be read becomes one that cannot"
    added = {name for name in sent if name not in asked or repr(sent[name]) != repr(asked[name])}
    assert added <= set(ADDED), added
    assert set(asked) <= set(sent)


def _object(body: bytes) -> dict[str, Any] | None:
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


BODIES = Target("bodies", check)
