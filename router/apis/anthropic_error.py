"""An error as Anthropic's clients expect it (https://docs.anthropic.com/en/api/errors)."""

import msgspec

from dualmap.router.http.openai_errors import HttpError

FIRST_SERVER_ERROR_STATUS = 500
_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


def anthropic_error(error: HttpError) -> bytes:
    """See ErrorShape."""
    other = "invalid_request_error" if error.status < FIRST_SERVER_ERROR_STATUS else "api_error"
    content = {"type": _TYPES.get(error.status, other), "message": error.message}
    return msgspec.json.encode({"type": "error", "error": content})
