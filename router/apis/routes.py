"""Which paths there are, and what happens to a request for each."""

from enum import Enum, auto

from dualmap.router.http.http_request import HttpRequest
from dualmap.router.http.openai_errors import HttpError, unknown_path, wrong_method


class Route(Enum):
    CHAT = auto()  # placed by its prefix
    COMPLETION = auto()  # placed by its prefix
    PASSED_THROUGH = auto()  # placed by load alone, its body not read
    MODELS = auto()  # these are answered by the gateway itself
    HEALTH = auto()
    READY = auto()


_POSTS = {"/v1/chat/completions": Route.CHAT, "/v1/completions": Route.COMPLETION}
_GETS = {"/v1/models": Route.MODELS, "/health": Route.HEALTH, "/ready": Route.READY}


def find_route(request: HttpRequest) -> Route | HttpError:
    """The request's route, or 404 or 405."""
    if request.method == "POST" and (route := _POSTS.get(request.path)):
        return route
    path = request.path
    if route := _GETS.get(path):
        return route if request.method == "GET" else wrong_method(request.method, path, "GET")
    if not path.startswith("/v1/"):
        return unknown_path(path)
    if request.method != "POST":
        return wrong_method(request.method, path, "POST")
    return Route.PASSED_THROUGH
