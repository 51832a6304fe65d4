"""What is not to be had at the gateway, in words that say so."""

from http import HTTPStatus

from dualmap.router.http.openai_errors import HttpError

# What steers a server, as vLLM has it. Whoever runs the server asks there: behind a gateway, one client would put
# everybody's instance to sleep.
STEERING = frozenset(
    {
        "abort_requests",
        "collective_rpc",
        "fault_tolerance",
        "finish_weight_update",
        "init_weight_transfer_engine",
        "is_paused",
        "is_scaling_elastic_ep",
        "is_sleeping",
        "pause",
        "release_kv_cache_memory",
        "reset_encoder_cache",
        "reset_mm_cache",
        "reset_prefix_cache",
        "resume",
        "scale_elastic_ep",
        "server_info",
        "shutdown_weight_transfer_engine",
        "sleep",
        "start_draft_weight_update",
        "start_profile",
        "start_weight_update",
        "stop_profile",
        "update_weight_version",
        "update_weights",
        "wake_up",
        "weight_checker",
        "weight_info",
    }
)
UNSERVED = {
    "files": "Files are not kept here: a request carries its file with it.",
    "batches": "Batches are not served here: send their requests one by one, with a `priority` far down.",
    "uploads": "Files are not kept here: a request carries its file with it.",
    "realtime": "Realtime sessions over WebSocket are not served here.",
}


def refusal(path: str) -> HttpError | None:
    """None where the path is none of these."""
    names = path.strip("/").lower().split("/")
    name = names[1] if names[0] == "v1" and len(names) > 1 else names[0]
    if name in STEERING:
        message = f"`{path}` steers a server, and is not passed on: ask the instance itself."
        return HttpError(HTTPStatus.FORBIDDEN, "PermissionDeniedError", message)
    if name in UNSERVED and names[0] == "v1":
        return HttpError(HTTPStatus.NOT_IMPLEMENTED, "NotImplementedError", UNSERVED[name])
    return None
