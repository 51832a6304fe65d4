"""The page of all errors that the gateway answers with, made from the errors themselves."""

from dualmap.router.http.openai_errors import (
    HttpError,
    bad_request,
    body_too_large,
    conflict,
    expectation_failed,
    failed,
    head_too_large,
    instance_key_refused,
    missing_model,
    not_admin,
    rate_limited,
    rejected,
    request_timeout,
    state_gone,
    stopping,
    transfer_refused,
    unauthorized,
    unauthorized_key,
    unavailable,
    unknown_model,
    unknown_path,
    unknown_state,
    unsupported_encoding,
    wrong_method,
)
from dualmap.router.http.unpacking import ENCODINGS
from dualmap.router.requests.admission import ONLY_PREFILL
from dualmap.router.requests.answer_plain import NO_STREAM
from dualmap.scheduler.commands import Reject, RejectReason
from dualmap.scheduler.events import FailureCause

HEAD = """# Errors
The gateway answers with an error object as OpenAI's API has it, whose types are vLLM's:

```json
{"error": {"message": "The model `x` does not exist.", "type": "NotFoundError", "param": "model", "code": 404}}
```

An error of an instance (4xx, or 429 and 500 of the last instance tried) is relayed as the instance sent it; a 500 is
told, too, where those tried after it have not answered. What a proxy says in an instance's place (408, 502, 503, 504,
any page of HTML) is not, nor 401 to a key of the gateway's: the request runs elsewhere, or its client gets one of these
errors. A stream that fails after its first token goes on at another instance, unless that cannot be exact (`No other
one can go on with the answer` says why) or it has done so `gateway.max_continuations` times: then it ends with an event
of this object and `[DONE]`, or with the instance's own error event; so does one that fails before it when its head has
been sent (`gateway.heartbeat_s`). Responses and messages end with an event named `error`, as their APIs have it. A
plain answer that fails after its first byte ends with a closed connection. `make reference` writes this page.

| status | type | message | when | what to do |
|---|---|---|---|---|
"""
REJECTED = {
    RejectReason.NO_INSTANCE: (
        "no instance of the pool is ready",
        "wait `Retry-After` seconds; look at `dualmap status`",
    ),
    RejectReason.QUEUE_FULL: (
        "`scheduler.max_waiting` or `scheduler.max_in_flight` is reached; the least important are turned away",
        "wait `Retry-After` seconds; add instances",
    ),
    RejectReason.QUEUE_TIMEOUT: (
        "the request waited until `x-dualmap-timeout-ms`, or `scheduler.queue_timeout_s`, was over",
        "add instances, or name a longer time-out",
    ),
    RejectReason.FIRST_TOKEN_TIMEOUT: (
        "the request was sent to an instance, which gave no token within `x-dualmap-timeout-ms`",
        "look at the instance in `dualmap status`, or name a longer time-out",
    ),
    RejectReason.ATTEMPTS_EXHAUSTED: (
        "`scheduler.max_attempts` instances failed the request before its first token",
        "look at the instances' logs, and at `dualmap_failed_attempts_total`",
    ),
}
FAILED = {
    FailureCause.STALLED: (
        "the instance sent nothing for `limits.first_byte_timeout_s`, or for `limits.stall_timeout_s` in which it was"
        " not seen to work, or it says that it runs nothing",
        "look at the instance's log; a long plain answer needs a longer `first_byte_timeout_s`",
    ),
    FailureCause.ABORTED: (
        "the instance ended the answer with finish_reason `abort`, or as its API says that",
        "send the request again",
    ),
    FailureCause.BROKEN: (
        "the instance was lost, or its connection broke, after part of the answer, and none goes on with it",
        "send the request again; see `dualmap_continuations_total`",
    ),
}
OTHERS: tuple[tuple[HttpError, str, str], ...] = (
    (
        bad_request("`messages` is missing.", "messages"),
        "the body or a header breaks the named rule",
        "mend the request",
    ),
    (
        bad_request("The request is not valid HTTP: REASON."),
        "two servers could read the request differently (content-length beside chunks, folded lines, bare CR or"
        " LF); the connection is closed",
        "mend the client or the proxy in front",
    ),
    (unauthorized_key(), "`gateway.api_keys_file` is set and the request bears none of its keys", "send a key"),
    (
        unauthorized(),
        "`gateway.admin_token_file` is set and a call of /admin has another token",
        "set `DUALMAP_ADMIN_TOKEN`",
    ),
    (missing_model(), "instances serve several models, and the request names none", "name one"),
    (
        transfer_refused("kv_transfer_params"),
        "there are API keys (`gateway.api_keys_file`) and the request's has not `kv_transfer: true`, or none and"
        " `gateway.isolate_tenants` is set",
        "leave the field out, or use a key that may send it",
    ),
    (
        not_admin(),
        "`gateway.api_keys_file` is set and the key that asks for an adapter has not `admin: true`",
        "use another key",
    ),
    (
        unknown_state("resp_x"),
        "no instance keeps what the request goes on from or asks for, or it is another tenant's",
        "send the whole input again, without the id",
    ),
    (
        state_gone("resp_x", "vllm-0"),
        "the instance that kept it was lost or has left",
        "send the whole input again, without the id",
    ),
    (unknown_model("x"), "no instance serves the model, or the API key may not use it", "ask `GET /v1/models`"),
    (unknown_path("/x"), "the gateway has no such path", "see the [HTTP API](http-api.md)"),
    (wrong_method("GET", "/v1/completions", "POST"), "the path takes another method", "use the method in `allow`"),
    (
        request_timeout("body", 60),
        "the client sent head or body too slowly (`limits.header_timeout_s`, `body_timeout_s`)",
        "send again",
    ),
    (
        conflict("REASON."),
        "an order to scale, drain or restart cannot be carried out; the message says why",
        "read the message",
    ),
    (body_too_large(16777216), "the body is longer than `limits.max_body_bytes`", "send less, or raise the limit"),
    (
        unsupported_encoding("br", ENCODINGS),
        "the body is compressed in another way, or in several at once",
        "compress it in one of these, or not at all",
    ),
    (expectation_failed(), "the header `Expect` is not `100-continue`", "drop the header"),
    (rate_limited(1, b""), "the API key's requests or tokens of this minute are used up", "wait `Retry-After` seconds"),
    (head_too_large(65536), "the head is longer than `limits.max_head_bytes`", "send fewer or shorter headers"),
    (
        NO_STREAM,
        "the answer to a stream's request is plain, and the client has the head of a stream (`gateway.heartbeat_s`)",
        "look at the instance, or set `gateway.heartbeat_s: 0`",
    ),
    (
        instance_key_refused(),
        "instances answer 401 to the key of the gateway, or to none where clients' keys are not passed on",
        "put the right key into `gateway.instance_key_file`, or the instance's `key_file`",
    ),
    (stopping(), "the gateway is told to stop", "send to another gateway"),
    (unavailable("Too many connections."), "`limits.max_connections` clients are connected", "use fewer connections"),
    (unavailable("No instance is known to serve the model yet."), "instances have not told their models yet", "wait"),
    (
        unavailable(ONLY_PREFILL),
        "all ready instances of the pool have `role: prefill`",
        "start one with `role: decode` or `both`",
    ),
)


def errors_page() -> str:
    rows = [*OTHERS]
    rows += [(rejected(Reject("", reason, 1.0)), *texts) for reason, texts in REJECTED.items()]
    rows += [(failed(cause), *texts) for cause, texts in FAILED.items()]
    return HEAD + "".join(_row(*row) for row in sorted(rows, key=lambda row: row[0].status))


def _row(error: HttpError, when: str, remedy: str) -> str:
    return f"| {int(error.status)} | `{error.type}` | {error.message} | {when} | {remedy} |\n"
