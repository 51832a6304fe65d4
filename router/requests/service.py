"""What clients reach over HTTP: requests for the fleet go to the driver, the rest is answered here."""

from collections.abc import Callable
from urllib.parse import unquote

from dualmap.router.access.access import Access
from dualmap.router.apis.api import ALL, HERE, Api
from dualmap.router.apis.local import HEALTH, MODEL, MODELS, READY
from dualmap.router.apis.routes import MODEL_PATH, error_shape, find_api
from dualmap.router.http.client_connection import ClientConnection
from dualmap.router.http.cors import Cors, is_preflight
from dualmap.router.http.http_request import HttpRequest
from dualmap.router.http.json_text import in_utf8
from dualmap.router.http.local_answers import json_response, no_content
from dualmap.router.http.openai_errors import (
    HttpError,
    RequestRefusedError,
    error_response,
    stopping,
    unavailable,
    unknown_model,
)
from dualmap.router.requests.adapter_changes import AdapterChanges, PendingChange
from dualmap.router.requests.admission import Admission
from dualmap.router.requests.asked import Arrived
from dualmap.router.requests.driver import RequestDriver
from dualmap.router.requests.exchange import Exchange

WITHOUT_KEY = (HEALTH, READY)


class RequestService:
    """See HttpService. adapters: changes them on all instances. clients: open connections. access: None: whoever can
    reach us may use the fleet. cors: None: browsers keep pages of other origins away. leaving: each connection ends
    with its next answer, since others serve in our place."""

    def __init__(
        self,
        driver: RequestDriver,
        admission: Admission,
        adapters: AdapterChanges,
        access: Access | None,
        clock: Callable[[], float],
    ) -> None:
        self.adapters = adapters
        self.clients: set[ClientConnection] = set()
        self._driver = driver
        self._admission = admission
        self.access = access
        self.cors: Cors | None = None
        self.leaving = False
        self._clock = clock

    # What client connections call.

    def check_head(self, request: HttpRequest) -> HttpError | None:
        if self.cors is not None and b"origin" in request.fields:
            request.answer_lines = self.cors.answer_lines(request.fields[b"origin"])
            if is_preflight(request):
                return self.cors.refusal(request)
        api = request.api = find_api(request)
        if not isinstance(api, Api):
            request.error_shape = error_shape(request)
            return None if self._options(request) else api
        request.error_shape = api.error
        if self.access is None or api in WITHOUT_KEY:
            return None
        return self.access.check(request)

    def begin(self, request: HttpRequest, client: ClientConnection) -> None:
        if self._admission.stopping:
            request.close = True
            self._answer_error(client, request, stopping())
            return
        if self.leaving and not client.has_more:
            request.close = True
        try:
            api = request.api
            if request.method == "OPTIONS" and (lines := self._options(request)):
                client.answer(no_content(lines, close=request.close), close=request.close)
                return
            assert isinstance(api, Api), "its head was checked"
            if api.placement is ALL:
                grant = None if self.access is None else self.access.grant(request)
                client.answer_over_time(PendingChange(self.adapters.begin(request, grant), client, request))
            elif api.placement is not HERE:
                self._begin_exchange(request, client, api)
            elif api is READY and not self._admission.ready:
                self._answer_error(client, request, unavailable("No instance that answers is ready."))
            else:
                client.answer(json_response(self._answer_here(request, api), close=request.close), close=request.close)
        except RequestRefusedError as refusal:
            self.refused(refusal.error)
            self._answer_error(client, request, refusal.error)

    def refused(self, error: HttpError) -> None:
        self._driver.note_refused()

    def _begin_exchange(self, request: HttpRequest, client: ClientConnection, api: Api) -> None:
        """Raises RequestRefusedError (401)."""
        driver = self._driver
        request_id = driver.next_id()
        arrived = Arrived(
            id=request_id,
            request_id=request.client_request_id or request_id.encode(),
            http=request,
            api=api,
            body=in_utf8(request.body),
            at=self._clock(),
            grant=None if self.access is None else self.access.grant(request),
        )
        exchange = Exchange(driver, client, arrived)
        client.answer_over_time(exchange)
        driver.take(exchange)

    def _options(self, request: HttpRequest) -> bytes:
        """What the head of the answer to OPTIONS says; empty where that is no answer, or an instance's."""
        if request.method != "OPTIONS":
            return b""
        if self.cors is not None and is_preflight(request):
            return self.cors.preflight_lines(request)
        if request.path == "*":
            return b"allow: GET, HEAD, POST, OPTIONS\r\n"
        if isinstance(request.api, HttpError) and request.api.allow:
            return b"allow: %b, OPTIONS\r\n" % request.api.allow.encode()
        return b""

    def _answer_here(self, request: HttpRequest, api: Api) -> bytes:
        """Raises RequestRefusedError (401, 404)."""
        if api not in (MODELS, MODEL):
            return b'{"status":"ok"}'
        models = self._admission.models
        allowed = None if self.access is None else self.access.grant(request).key.models  # None: all
        if api is MODELS:
            return models.body if allowed is None else models.body_for(allowed)
        model = unquote(request.path.removeprefix(MODEL_PATH))
        card = models.card_of(model, allowed)
        if card is None:
            raise RequestRefusedError(unknown_model(model))
        return card

    def _answer_error(self, client: ClientConnection, request: HttpRequest, error: HttpError) -> None:
        response = error_response(
            error, request_id=request.client_request_id, close=request.close, shape=request.error_shape
        )
        client.answer(response, close=request.close)

    # What the gateway calls.

    def sweep(self, now: float) -> None:
        """Apply the time-outs of connections, and take over changed keys; called periodically."""
        for client in list(self.clients):
            client.sweep(now)
        if self.access is not None:
            self.access.sweep(now)

    def close_idle(self, idle_s: float = 0.0) -> None:
        """Close the connections on which nothing is read or answered, and nothing was for so long."""
        for client in list(self.clients):
            client.close_if_idle(idle_s)

    @property
    def has_unsent(self) -> bool:
        """Some of an answer has not left this process."""
        return any(client.has_unsent for client in self.clients)

    def abort(self) -> None:
        """Drop all connections."""
        for client in list(self.clients):
            client.abort()
