"""Envoy's external processing messages, as the endpoint-picker protocol of the Gateway API Inference Extension uses
them (its proposal 004): what they say of a request, and the answers to them."""

from collections.abc import Mapping
from functools import cache, lru_cache
from math import ceil

from envoy.config.core.v3 import base_pb2
from envoy.extensions.filters.http.ext_proc.v3 import processing_mode_pb2
from envoy.service.ext_proc.v3 import external_processor_pb2 as pb
from envoy.type.v3 import http_status_pb2
from google.protobuf import struct_pb2

from dualmap.router.http.http_request import NOTED, HttpRequest
from dualmap.router.http.openai_errors import ErrorShape, HttpError

DESTINATION = "x-gateway-destination-endpoint"
SERVED = "x-gateway-destination-endpoint-served"
SUBSET = "x-gateway-destination-endpoint-subset"
DESTINATION_NAMESPACE = "envoy.lb"
SUBSET_NAMESPACE = "envoy.lb.subset_hint"
ATTRIBUTES = "envoy.filters.http.ext_proc"
UPSTREAM_ADDRESS = "upstream.address"  # where `response_attributes` of the filter asks for it
MOST_KEPT = 4096  # answers to proxies, of each kind
PIECE_BYTES = 62 * 1024  # Envoy takes bodies back in pieces below 64 KB

Mode = processing_mode_pb2.ProcessingMode
DUPLEX = Mode.FULL_DUPLEX_STREAMED
HOLDS_BODY = (Mode.BUFFERED, Mode.BUFFERED_PARTIAL)  # the body comes whole, once its headers are answered


# What they say.


def read_headers(headers: base_pb2.HeaderMap) -> dict[str, bytes]:
    """By lower-case name, the last of each."""
    return {header.key.lower(): header.raw_value or header.value.encode() for header in headers.headers}


def read_request(headers: Mapping[str, bytes], now: float) -> HttpRequest:
    """What its head says; whether that can be accepted, `refusal` tells."""
    request = HttpRequest(now)
    request.refusal = request.take_target(headers.get(":method", b"").decode("latin-1"), headers.get(":path", b""))
    for name, value in headers.items():
        if (key := name.encode()) in NOTED:
            request.note(key, value)
        elif key == b"content-type":
            request.forwarded.append(b"content-type: %b\r\n" % value)
    return request


def body_modes(message: pb.ProcessingRequest) -> tuple[int, int]:
    """Of request and response, as the first message of a stream tells."""
    if not message.HasField("protocol_config"):
        return DUPLEX, DUPLEX
    return message.protocol_config.request_body_mode, message.protocol_config.response_body_mode


def subset_hint(message: pb.ProcessingRequest) -> tuple[str, ...] | None:
    """The endpoints that may be picked; None: any."""
    fields = _metadata(message, SUBSET_NAMESPACE)
    if SUBSET not in fields:
        return None
    hint = fields[SUBSET]
    values = [value.string_value for value in hint.list_value.values] or hint.string_value.split(",")
    return tuple(endpoint for value in values if (endpoint := value.strip()))


def served_by(message: pb.ProcessingRequest) -> str:
    """The endpoint that gave an answer, as IP:PORT; empty where the proxy did not reach one, or does not tell."""
    fields = _metadata(message, DESTINATION_NAMESPACE)
    if SERVED in fields:
        return str(fields[SERVED].string_value)
    if ATTRIBUTES in message.attributes:
        return str(message.attributes[ATTRIBUTES].fields[UPSTREAM_ADDRESS].string_value)
    return ""


def _metadata(message: pb.ProcessingRequest, namespace: str) -> Mapping[str, struct_pb2.Value]:
    namespaces = message.metadata_context.filter_metadata
    return namespaces[namespace].fields if namespace in namespaces else {}


# The answers. What proxies are told again and again is made once: nobody changes it.


@cache
def nothing_to_do(kind: str) -> pb.ProcessingResponse:
    """Goes on as it is. kind: that of the request's message, such as "response_headers"."""
    if kind.endswith("headers"):
        return pb.ProcessingResponse(**{kind: pb.HeadersResponse()})
    if kind.endswith("trailers"):
        return pb.ProcessingResponse(**{kind: pb.TrailersResponse()})
    return pb.ProcessingResponse(**{kind: pb.BodyResponse()})


@lru_cache(maxsize=MOST_KEPT)
def destination(kind: str, endpoints: tuple[str, ...]) -> pb.ProcessingResponse:
    """Goes to the first of these that takes it. kind: "request_headers" or "request_body"."""
    value = ",".join(endpoints)
    common = pb.CommonResponse(header_mutation=_set_headers({DESTINATION: value}))
    picked = struct_pb2.Struct()
    picked.update({DESTINATION_NAMESPACE: {DESTINATION: value}})
    if kind == "request_headers":
        return pb.ProcessingResponse(request_headers=pb.HeadersResponse(response=common), dynamic_metadata=picked)
    return pb.ProcessingResponse(request_body=pb.BodyResponse(response=common), dynamic_metadata=picked)


def echo(kind: str, body: bytes, end_of_stream: bool) -> list[pb.ProcessingResponse]:
    """The body goes on as it came, in full-duplex mode. kind: "request_body" or "response_body"."""
    starts = range(0, max(1, len(body)), PIECE_BYTES)
    return [_piece(kind, body[start : start + PIECE_BYTES], end_of_stream and start == starts[-1]) for start in starts]


def _piece(kind: str, piece: bytes, last: bool) -> pb.ProcessingResponse:
    response = pb.ProcessingResponse()
    streamed = getattr(response, kind).response.body_mutation.streamed_response
    streamed.body = piece
    streamed.end_of_stream = last
    return response


@lru_cache(maxsize=MOST_KEPT)
def answer_headers(instance_id: str) -> pb.ProcessingResponse:
    common = pb.CommonResponse(header_mutation=_set_headers({"x-dualmap-instance": instance_id}))
    return pb.ProcessingResponse(response_headers=pb.HeadersResponse(response=common))


def refusal(error: HttpError, shape: ErrorShape) -> pb.ProcessingResponse:
    """The proxy answers the client with the error."""
    headers = {"content-type": "application/json"}
    if error.retry_after_s is not None:
        headers["retry-after"] = str(max(1, ceil(error.retry_after_s)))
    return pb.ProcessingResponse(
        immediate_response=pb.ImmediateResponse(
            status=http_status_pb2.HttpStatus(code=error.status.value),
            headers=_set_headers(headers),
            body=shape(error),
            details=f"dualmap_{error.type}",
        )
    )


def _set_headers(headers: Mapping[str, str]) -> pb.HeaderMutation:
    overwrite = base_pb2.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD
    return pb.HeaderMutation(
        set_headers=[
            base_pb2.HeaderValueOption(
                header=base_pb2.HeaderValue(key=name, raw_value=value.encode()), append_action=overwrite
            )
            for name, value in headers.items()
        ]
    )
