"""Which paths there are, and which API each belongs to."""

from dualmap.router.apis.adapters import ADAPTERS
from dualmap.router.apis.api import Api
from dualmap.router.apis.audio import AUDIO
from dualmap.router.apis.chat import CHAT
from dualmap.router.apis.completions import COMPLETIONS
from dualmap.router.apis.embeddings import EMBEDDINGS, POOLING
from dualmap.router.apis.generate import GENERATE
from dualmap.router.apis.images import IMAGES
from dualmap.router.apis.local import HEALTH, MODEL, MODELS, READY
from dualmap.router.apis.messages import ABOUT_MESSAGES, COUNT_TOKENS, MESSAGES
from dualmap.router.apis.other import OTHER
from dualmap.router.apis.refused import refusal
from dualmap.router.apis.responses import ABOUT_RESPONSES, CONVERSATIONS, KEPT, RESPONSES
from dualmap.router.apis.tokenize import TOKENIZE
from dualmap.router.http.http_request import HttpRequest
from dualmap.router.http.openai_errors import ErrorShape, HttpError, error_body, unknown_path, wrong_method

_POSTS: dict[str, Api] = {
    "/v1/chat/completions": CHAT,
    "/v1/completions": COMPLETIONS,
    "/v1/responses": RESPONSES,
    "/v1/messages": MESSAGES,
    "/v1/messages/count_tokens": COUNT_TOKENS,
    "/inference/v1/generate": GENERATE,
    "/v1/conversations": CONVERSATIONS,
    "/v1/responses/render": ABOUT_RESPONSES,
    "/v1/responses/compact": ABOUT_RESPONSES,
    "/v1/responses/input_tokens": ABOUT_RESPONSES,
    "/v1/embeddings": EMBEDDINGS,
    "/v2/embed": EMBEDDINGS,
    "/v1/score": POOLING,
    "/score": POOLING,
    "/v1/rerank": POOLING,
    "/v2/rerank": POOLING,
    "/rerank": POOLING,
    "/v1/classify": POOLING,
    "/classify": POOLING,
    "/v1/pooling": POOLING,
    "/pooling": POOLING,
    "/generative_scoring": POOLING,
    "/v1/audio/transcriptions": AUDIO,
    "/v1/audio/translations": AUDIO,
    "/v1/audio/speech": AUDIO,
    "/v1/images/generations": IMAGES,
    "/v1/images/edits": IMAGES,
    "/v1/images/variations": IMAGES,
    "/v1/tokenize": TOKENIZE,
    "/tokenize": TOKENIZE,
    "/v1/detokenize": TOKENIZE,
    "/detokenize": TOKENIZE,
    "/v1/load_lora_adapter": ADAPTERS,
    "/v1/unload_lora_adapter": ADAPTERS,
}
_GETS: dict[str, Api] = {
    "/v1/models": MODELS,
    "/health": HEALTH,
    "/ping": HEALTH,
    "/ready": READY,
    "/version": OTHER,
    "/tokenizer_info": OTHER,
}
_BEGINNINGS: tuple[tuple[str, Api], ...] = (
    ("/v1/responses/", KEPT),
    ("/v1/conversations/", KEPT),
    ("/v1/messages/", ABOUT_MESSAGES),
)
MODEL_PATH = "/v1/models/"


def find_api(request: HttpRequest) -> Api | HttpError:
    """The API that a request is for, or why there is none."""
    method, path = request.method, request.path
    if method == "POST" and (api := _POSTS.get(path)) is not None:
        return api
    if (error := refusal(path)) is not None:
        return error
    if method == "TRACE":  # it would show the client the keys of the gateway
        return wrong_method(method, path, "GET, HEAD, POST, OPTIONS")
    if path in _GETS:
        return _GETS[path] if method in ("GET", "HEAD") else wrong_method(method, path, "GET, HEAD")
    if path in _POSTS:
        return wrong_method(method, path, "POST")
    if path.startswith(MODEL_PATH) and method in ("GET", "HEAD"):
        return MODEL
    for beginning, api in _BEGINNINGS:
        if path.startswith(beginning) and len(path) > len(beginning):
            return api
    if path.startswith("/v1/") and not path.startswith("/v1/v1/"):
        return OTHER
    meant = _meant(path)
    return unknown_path(path, meant if meant != path else "")


def _meant(path: str) -> str:
    """The path with `/v1` in front once: some clients add it to the address that they are given, some do not."""
    right = "/v1" + path.removeprefix("/v1").removeprefix("/v1")
    return right if right in _POSTS or right in _GETS else path


def route(path: str) -> str:
    """The path without what names one thing of many: one of a few, whatever clients ask for."""
    if path in _POSTS or path in _GETS:
        return path
    return next((f"{beginning}{{id}}" for beginning, _ in _BEGINNINGS if path.startswith(beginning)), "/v1/{other}")


def error_shape(request: HttpRequest) -> ErrorShape:
    """How whoever sent the request expects an error, also where its path is none or takes another method."""
    api = _POSTS.get(_meant(request.path)) or find_api(request)
    return api.error if isinstance(api, Api) else error_body
