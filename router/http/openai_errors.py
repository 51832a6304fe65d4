"""Errors as OpenAI error objects, and the complete answers that carry them. No other file knows the statuses of
errors.

Types and wording follow vLLM where it has an error of the kind, so that clients need to know one server only.
"""

from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from math import ceil

import msgspec

from dualmap.scheduler.commands import Reject, RejectReason
from dualmap.scheduler.events import FailureCause


@dataclass(frozen=True, slots=True)
class HttpError:
    """An answer that is an error. param: the body field or header at fault. allow: methods the path has, for 405.
    lines: more of its head."""

    status: HTTPStatus
    type: str
    message: str
    param: str | None = None
    retry_after_s: float | None = None
    allow: str | None = None
    lines: bytes = b""


ErrorShape = Callable[[HttpError], bytes]  # the body of an error, as the clients of an API expect it


class RequestRefusedError(Exception):
    """The request is answered with `error` and goes no further."""

    def __init__(self, error: HttpError) -> None:
        super().__init__(error.message)
        self.error = error


def bad_request(message: str, param: str | None = None) -> HttpError:
    return HttpError(HTTPStatus.BAD_REQUEST, "BadRequestError", message, param)


def unauthorized() -> HttpError:
    return HttpError(HTTPStatus.UNAUTHORIZED, "AuthenticationError", "The bearer token is missing or wrong.")


def unauthorized_key() -> HttpError:
    return HttpError(HTTPStatus.UNAUTHORIZED, "AuthenticationError", "The API key is missing or not known.")


def rate_limited(retry_after_s: float, lines: bytes) -> HttpError:
    message = "The API key's rate limit is used up."
    return HttpError(HTTPStatus.TOO_MANY_REQUESTS, "RateLimitError", message, retry_after_s=retry_after_s, lines=lines)


def missing_model() -> HttpError:
    return bad_request("`model` is missing, and instances serve more than one.", "model")


def transfer_refused(field: str) -> HttpError:
    return bad_request(f"`{field}` is not taken from clients: an instance connects to whatever host it names.", field)


def unknown_model(model: str) -> HttpError:
    return HttpError(HTTPStatus.NOT_FOUND, "NotFoundError", f"The model `{model}` does not exist.", "model")


def unknown_state(state_id: str) -> HttpError:
    what, param = _state_name(state_id)
    return HttpError(HTTPStatus.NOT_FOUND, "invalid_request_error", f"{what} with id '{state_id}' not found.", param)


def state_gone(state_id: str, instance_id: str) -> HttpError:
    what, param = _state_name(state_id)
    message = (
        f"{what} with id '{state_id}' is lost: the instance that kept it, {instance_id}, is gone. Send the whole input"
        " again, without the id."
    )
    return HttpError(HTTPStatus.NOT_FOUND, "invalid_request_error", message, param)


def _state_name(state_id: str) -> tuple[str, str]:
    """What it is, and the parameter that names it."""
    return ("Conversation", "conversation") if state_id.startswith("conv_") else ("Response", "response_id")


def unknown_path(path: str, meant: str = "") -> HttpError:
    """meant: where there is what the client seems to look for."""
    message = f"There is nothing at `{path}`; you may mean `{meant}`." if meant else f"There is nothing at `{path}`."
    return HttpError(HTTPStatus.NOT_FOUND, "NotFoundError", message)


def wrong_method(method: str, path: str, allow: str) -> HttpError:
    message = f"`{path}` takes {allow}, not {method}."
    return HttpError(HTTPStatus.METHOD_NOT_ALLOWED, "MethodNotAllowedError", message, allow=allow)


def conflict(message: str) -> HttpError:
    return HttpError(HTTPStatus.CONFLICT, "ConflictError", message)


def request_timeout(what: str, limit_s: float) -> HttpError:
    message = f"The request's {what} was not complete after {limit_s:g} s."
    return HttpError(HTTPStatus.REQUEST_TIMEOUT, "RequestTimeoutError", message)


def body_too_large(limit_bytes: int) -> HttpError:
    message = f"The request's body is larger than {limit_bytes} bytes."
    return HttpError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "RequestTooLargeError", message)


def unsupported_encoding(encoding: str, known: str) -> HttpError:
    message = f"A body's Content-Encoding can be one of {known}, not `{encoding}`."
    lines = b"accept-encoding: %b\r\n" % known.encode()
    return HttpError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "UnsupportedMediaTypeError", message, lines=lines)


def expectation_failed() -> HttpError:
    message = "`Expect` can only be `100-continue`."
    return HttpError(HTTPStatus.EXPECTATION_FAILED, "ExpectationFailedError", message)


def head_too_large(limit_bytes: int) -> HttpError:
    message = f"The request's head is larger than {limit_bytes} bytes."
    return HttpError(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "RequestTooLargeError", message)


def unavailable(message: str, retry_after_s: float = 1.0) -> HttpError:
    return HttpError(HTTPStatus.SERVICE_UNAVAILABLE, "ServiceUnavailableError", message, retry_after_s=retry_after_s)


def stopping() -> HttpError:
    return unavailable("The gateway is shutting down.")


def bad_gateway(message: str) -> HttpError:
    return HttpError(HTTPStatus.BAD_GATEWAY, "BadGatewayError", message)


def instance_key_refused() -> HttpError:
    """A client's key is right, or is asked for by nobody: 401 would be wrong."""
    return bad_gateway("The instance does not take the gateway's key. Clients cannot mend this; its operator can.")


def not_admin() -> HttpError:
    message = "Adapters are loaded and unloaded with an API key that has `admin: true` in the keys file."
    return HttpError(HTTPStatus.FORBIDDEN, "PermissionDeniedError", message)


def not_here(message: str) -> HttpError:
    return HttpError(HTTPStatus.NOT_IMPLEMENTED, "NotImplementedError", message)


def rejected(reject: Reject) -> HttpError:
    """What the client is told when the core rejects its request."""
    retry_after_s = reject.retry_after_s
    match reject.reason:
        case RejectReason.NO_INSTANCE:
            return unavailable("No instance is ready to serve the request.", retry_after_s)
        case RejectReason.ATTEMPTS_EXHAUSTED:
            return unavailable("No instance could take the request.", retry_after_s)
        case RejectReason.QUEUE_FULL:
            message = "Too many requests are waiting."
            return HttpError(HTTPStatus.TOO_MANY_REQUESTS, "RateLimitError", message, retry_after_s=retry_after_s)
        case RejectReason.QUEUE_TIMEOUT:
            message = "The request has waited until its time-out."
        case RejectReason.FIRST_TOKEN_TIMEOUT:
            message = "The instance sent no token before the request's time-out."
    return HttpError(HTTPStatus.GATEWAY_TIMEOUT, "GatewayTimeoutError", message, retry_after_s=retry_after_s)


def failed(cause: FailureCause, why_cut: str = "") -> HttpError:
    """What the client is told when its attempt broke and cannot be repeated. why_cut: why no other instance goes on
    with its answer."""
    more = f" No other one can go on with the answer: {why_cut}." if why_cut else ""
    if cause is FailureCause.STALLED:
        return HttpError(HTTPStatus.GATEWAY_TIMEOUT, "GatewayTimeoutError", "The instance stopped answering." + more)
    message = "The instance failed before its answer was complete."
    if cause is FailureCause.ABORTED:
        message = "The instance ended the answer by itself: it shuts down, or its engine failed."
    return HttpError(HTTPStatus.BAD_GATEWAY, "BadGatewayError", message + more)


def error_body(error: HttpError) -> bytes:
    """See ErrorShape: an OpenAI error object."""
    content = {"message": error.message, "type": error.type, "param": error.param, "code": int(error.status)}
    return msgspec.json.encode({"error": content})


def error_response(error: HttpError, *, request_id: bytes = b"", close: bool, shape: ErrorShape = error_body) -> bytes:
    """The complete answer, head and body."""
    body = shape(error)
    lines = [
        f"HTTP/1.1 {error.status.value} {error.status.phrase}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n".encode()
    ]
    if error.retry_after_s is not None:
        lines.append(b"retry-after: %d\r\n" % max(1, ceil(error.retry_after_s)))
    if error.lines:
        lines.append(error.lines)
    if error.allow:
        lines.append(b"allow: " + error.allow.encode() + b"\r\n")
    if error.status is HTTPStatus.UNAUTHORIZED:
        lines.append(b"www-authenticate: Bearer\r\n")
    if request_id:
        lines.append(b"x-request-id: " + request_id + b"\r\n")
    if close:
        lines.append(b"connection: close\r\n")
    lines.append(b"\r\n")
    lines.append(body)
    return b"".join(lines)


def error_events(error: HttpError) -> bytes:
    """The server-sent events that end a stream midway, as vLLM ends one whose engine died."""
    return b"data: " + error_body(error) + b"\n\ndata: [DONE]\n\n"
