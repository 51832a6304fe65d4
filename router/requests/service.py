"""What clients reach over HTTP: requests for the fleet go to the driver, the rest is answered here."""

from collections.abc import Callable

from dualmap.router.access.access import Access
from dualmap.router.apis.routes import Route, find_route
from dualmap.router.http.client_connection import ClientConnection
from dualmap.router.http.http_request import HttpRequest
from dualmap.router.http.local_answers import json_response
from dualmap.router.http.openai_errors import HttpError, RequestRefusedError, error_response, unavailable
from dualmap.router.requests.admission import Admission
from dualmap.router.requests.asked import Arrived
from dualmap.router.requests.driver import RequestDriver
from dualmap.router.requests.exchange import Exchange


class RequestService:
    """See HttpService. clients: open connections. access: None: whoever can reach us may use the fleet."""

    def __init__(
        self, driver: RequestDriver, admission: Admission, access: Access | None, clock: Callable[[], float]
    ) -> None:
        self.clients: set[ClientConnection] = set()
        self._driver = driver
        self._admission = admission
        self.access = access
        self._clock = clock

    # What client connections call.

    def check_head(self, request: HttpRequest) -> HttpError | None:
        route = find_route(request)
        if not isinstance(route, Route):
            return route
        if self.access is None or route in (Route.HEALTH, Route.READY):
            return None
        return self.access.check(request)

    def begin(self, request: HttpRequest, client: ClientConnection) -> None:
        if self._admission.stopping:
            request.close = True
            self._answer_error(client, request, unavailable("The gateway is shutting down."))
            return
        try:
            match find_route(request):
                case Route.CHAT | Route.COMPLETION | Route.PASSED_THROUGH as route:
                    self._begin_exchange(request, client, route)
                case Route.MODELS:
                    client.answer(json_response(self._model_list(request), close=request.close), close=request.close)
                case Route.READY if not self._admission.ready:
                    self._answer_error(client, request, unavailable("No instance is ready."))
                case _:
                    client.answer(json_response(b'{"status":"ok"}', close=request.close), close=request.close)
        except RequestRefusedError as refusal:  # its key is not known any more
            self.refused(refusal.error)
            self._answer_error(client, request, refusal.error)

    def refused(self, error: HttpError) -> None:
        self._driver.note_refused()

    def _begin_exchange(self, request: HttpRequest, client: ClientConnection, route: Route) -> None:
        """Raises RequestRefusedError (401)."""
        driver = self._driver
        request_id = driver.next_id()
        arrived = Arrived(
            id=request_id,
            request_id=request.client_request_id or request_id.encode(),
            http=request,
            route=route,
            body=request.body,
            at=self._clock(),
            grant=None if self.access is None else self.access.grant(request),
        )
        exchange = Exchange(driver, client, arrived)
        client.answer_over_time(exchange)
        driver.take(exchange)

    def _model_list(self, request: HttpRequest) -> bytes:
        """Raises RequestRefusedError (401)."""
        models = self._admission.models
        return models.body if self.access is None else models.body_for(self.access.grant(request).key.models)

    def _answer_error(self, client: ClientConnection, request: HttpRequest, error: HttpError) -> None:
        response = error_response(error, request_id=request.client_request_id, close=request.close)
        client.answer(response, close=request.close)

    # What the gateway calls.

    def sweep(self, now: float) -> None:
        """Apply the time-outs of connections, and take over changed keys; called periodically."""
        for client in list(self.clients):
            client.sweep(now)
        if self.access is not None:
            self.access.sweep(now)

    def close_idle(self) -> None:
        """Close the connections on which nothing is read or answered."""
        for client in list(self.clients):
            client.close_if_idle()

    @property
    def has_unsent(self) -> bool:
        """Some of an answer has not left this process."""
        return any(client.has_unsent for client in self.clients)

    def abort(self) -> None:
        """Drop all connections."""
        for client in list(self.clients):
            client.abort()
