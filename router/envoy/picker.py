"""The endpoint picker: tells a proxy that speaks Envoy's external processing protocol which instance takes a request.

A proxy's message is held until the core dispatches the request, so that what waits can still move to another instance.
"""

from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Mapping, Sequence
from typing import Any

from envoy.service.ext_proc.v3 import external_processor_pb2 as pb

from dualmap.router.apis.api import Api, Placement
from dualmap.router.apis.other import OTHER
from dualmap.router.apis.refused import refusal
from dualmap.router.apis.routes import error_shape, find_api
from dualmap.router.envoy import ext_proc
from dualmap.router.envoy.pick import Pick
from dualmap.router.http.http_request import HttpRequest
from dualmap.router.http.openai_errors import (
    ErrorShape,
    HttpError,
    bad_gateway,
    body_too_large,
    error_body,
    not_here,
    unavailable,
)
from dualmap.router.requests.admission import Admission
from dualmap.router.requests.asked import Arrived
from dualmap.router.requests.driver import RequestDriver
from dualmap.scheduler.commands import Dispatch
from dualmap.scheduler.events import ServedElsewhere

EVENT_STREAM = b"text/event-stream"
HEADLESS = ("request_body", "request_trailers")
OUT_OF_ORDER = "A proxy must send the picker a request's headers once and first (request_header_mode: SEND)."


class Picker:
    """The service envoy.service.ext_proc.v3.ExternalProcessor. instances: id by IP:PORT, of those that are ready."""

    def __init__(
        self,
        driver: RequestDriver,
        admission: Admission,
        clock: Callable[[], float],
        max_body_bytes: int,
        alternatives: Callable[[Dispatch], Iterable[str]],
    ) -> None:
        """alternatives: ids of the other instances that a request could go to, the best first."""
        self.instances: Mapping[str, str] = {}
        self.endpoints: Mapping[str, str] = {}  # the other way round
        self._driver = driver
        self._admission = admission
        self._clock = clock
        self._max_body_bytes = max_body_bytes
        self._alternatives = alternatives

    async def Process(  # noqa: N802
        self, request_iterator: AsyncIterable[pb.ProcessingRequest], context: Any
    ) -> AsyncIterator[pb.ProcessingResponse]:
        """One HTTP request and its answer."""
        carried = _Carried(self)
        try:
            async for message in request_iterator:
                for response in await carried.take(message):
                    yield response
            carried.end()
        finally:
            carried.left()

    def pick(self, request: HttpRequest, body: bytes, subset: tuple[str, ...] | None, read: bool) -> Pick:
        """read: the body is there to be read."""
        driver = self._driver
        only = () if subset is None else tuple(self.instances[e] for e in subset if e in self.instances)
        api = find_api(request)
        readable = (Placement.PREFIX, Placement.STATE) if read else (Placement.STATE,)
        pick_id = driver.next_id()
        arrived = Arrived(
            id=pick_id,
            request_id=request.client_request_id or pick_id.encode(),
            http=request,
            api=api if isinstance(api, Api) and api.placement in readable else OTHER,
            body=body,
            at=self._clock(),
            only=only,
        )
        pick = Pick(driver, arrived, self._endpoints_of)
        if (refused := request.refusal or refusal(request.path)) is not None:
            pick.answer_error(refused)
        elif self._admission.stopping:
            pick.answer_error(unavailable("The endpoint picker is shutting down."))
        elif isinstance(api, Api) and api.placement is Placement.ALL:
            pick.answer_error(not_here("Behind a proxy, adapters are loaded on each instance by itself."))
        elif subset is not None and not only:
            pick.answer_error(unavailable("None of the endpoints that the request may go to is ready."))
        else:
            driver.take(pick)
        return pick

    def request(self, headers: Mapping[str, bytes]) -> HttpRequest:
        request = ext_proc.read_request(headers, self._clock())
        request.error_shape = error_shape(request)
        return request

    def body_error(self, body_bytes: int) -> HttpError | None:
        return body_too_large(self._max_body_bytes) if body_bytes > self._max_body_bytes else None

    def note_served(self, pick: Pick, endpoint: str) -> None:
        """The proxy tells which endpoint gave the answer."""
        instance_id = self.instances.get(endpoint)
        if instance_id and pick.running is not None and pick.running.dispatch.instance_id != instance_id:
            event = ServedElsewhere(pick.arrived.id, pick.running.dispatch.attempt, instance_id)
            self._driver.handle(event, pick.asked.core)

    def _endpoints_of(self, dispatch: Dispatch) -> tuple[str, ...]:
        ids = dict.fromkeys((dispatch.instance_id, *self._alternatives(dispatch)))
        return tuple(self.endpoints[instance_id] for instance_id in ids if instance_id in self.endpoints)


class _Carried:
    """One stream of messages, which is one HTTP request."""

    def __init__(self, picker: Picker) -> None:
        self._picker = picker
        self._pick: Pick | None = None
        self._request: HttpRequest | None = None
        self._subset: tuple[str, ...] | None = None
        self._body: list[bytes] = []
        self._body_bytes = 0
        self._modes = (ext_proc.DUPLEX, ext_proc.DUPLEX)
        self._answered = False

    async def take(self, message: pb.ProcessingRequest) -> Sequence[pb.ProcessingResponse]:
        """The answers to a message, in order."""
        kind = message.WhichOneof("request")
        if kind in (HEADLESS if self._request is None else ("request_headers",)):
            return [ext_proc.refusal(bad_gateway(OUT_OF_ORDER), error_body)]
        match kind:
            case "request_headers":
                return await self._request_headers(message)
            case "request_body":
                return await self._request_body(message.request_body)
            case "request_trailers":
                rest = [ext_proc.nothing_to_do("request_trailers")]
                if self._pick is None and self._modes[0] == ext_proc.DUPLEX:  # they end the body in place of its flag
                    return [*await self._go_on(ends=False), *rest]
                return rest
            case "response_headers":
                return [self._response_headers(message)]
            case "response_body":
                return self._response_body(message.response_body)
            case "response_trailers":
                self.end()
                return [ext_proc.nothing_to_do("response_trailers")]
        return ()

    @property
    def _shape(self) -> ErrorShape:
        assert self._request is not None, "headers come first"
        return self._request.error_shape

    def end(self) -> None:
        """Nothing more comes."""
        if self._pick is not None and self._answered:
            self._pick.end()

    def left(self) -> None:
        if self._pick is not None:
            self._pick.left()

    async def _request_headers(self, message: pb.ProcessingRequest) -> Sequence[pb.ProcessingResponse]:
        self._modes = ext_proc.body_modes(message)
        self._subset = ext_proc.subset_hint(message)
        self._request = self._picker.request(ext_proc.read_headers(message.request_headers.headers))
        ends = message.request_headers.end_of_stream
        if self._modes[0] in ext_proc.HOLDS_BODY and not ends:
            return [ext_proc.nothing_to_do("request_headers")]
        if self._modes[0] != ext_proc.DUPLEX or ends:
            return [await self._choose("request_headers", read=False)]
        return ()

    async def _request_body(self, part: pb.HttpBody) -> Sequence[pb.ProcessingResponse]:
        if self._pick is not None:  # it was picked by its headers
            return [ext_proc.nothing_to_do("request_body")]
        self._body.append(part.body)
        self._body_bytes += len(part.body)
        if (error := self._picker.body_error(self._body_bytes)) is not None:
            return [ext_proc.refusal(error, self._shape)]
        if self._modes[0] in ext_proc.HOLDS_BODY:
            return [await self._choose("request_body", read=True)]
        return await self._go_on(ends=True) if part.end_of_stream else ()

    async def _go_on(self, ends: bool) -> Sequence[pb.ProcessingResponse]:
        """In full-duplex mode headers and body have been held. ends: with the body, not with trailers."""
        response = await self._choose("request_headers", read=True)
        body = b"".join(self._body)
        self._body.clear()
        if response.HasField("immediate_response"):
            return [response]
        return [response, *ext_proc.echo("request_body", body, ends)]

    async def _choose(self, kind: str, read: bool) -> pb.ProcessingResponse:
        assert self._request is not None, "headers come first"
        self._pick = self._picker.pick(self._request, b"".join(self._body), self._subset, read)
        chosen = await self._pick.chosen
        if isinstance(chosen, HttpError):
            return ext_proc.refusal(chosen, self._shape)
        return ext_proc.destination(kind, chosen)

    def _response_headers(self, message: pb.ProcessingRequest) -> pb.ProcessingResponse:
        pick = self._pick
        if pick is None or pick.running is None:
            return ext_proc.nothing_to_do("response_headers")
        headers = ext_proc.read_headers(message.response_headers.headers)
        endpoint = ext_proc.served_by(message)
        self._picker.note_served(pick, endpoint)
        if pick.running is None:  # it was over when the proxy went elsewhere
            return ext_proc.nothing_to_do("response_headers")
        instance_id = pick.running.dispatch.instance_id
        self._answered = True
        event_stream = headers.get("content-type", b"").startswith(EVENT_STREAM)
        status = headers.get(":status", b"")
        pick.answered(int(status) if status.isdigit() else 0, event_stream, bool(endpoint))
        if message.response_headers.end_of_stream:
            pick.end()
        return ext_proc.answer_headers(instance_id)

    def _response_body(self, part: pb.HttpBody) -> Sequence[pb.ProcessingResponse]:
        if self._pick is not None:
            self._pick.take(part.body)
            if part.end_of_stream:
                self.end()
        if self._modes[1] == ext_proc.DUPLEX:
            return ext_proc.echo("response_body", part.body, part.end_of_stream)
        return [ext_proc.nothing_to_do("response_body")]
