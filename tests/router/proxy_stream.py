"""A proxy's side of one stream of external processing messages, without gRPC."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from envoy.config.core.v3 import base_pb2
from envoy.service.ext_proc.v3 import external_processor_pb2 as pb

from dualmap.router.envoy import ext_proc
from dualmap.router.envoy.picker import Picker


class ProxyStream:
    """mode: of request bodies. hint: the endpoints that may be picked."""

    def __init__(self, picker: Picker, mode: int = ext_proc.DUPLEX, hint: list[str] | None = None) -> None:
        self._mode = mode
        self._hint = hint
        self._messages: asyncio.Queue[pb.ProcessingRequest | None] = asyncio.Queue()
        self._responses = picker.Process(self._sent(), None)

    async def _sent(self) -> AsyncIterator[pb.ProcessingRequest]:
        while (message := await self._messages.get()) is not None:
            yield message

    def send(self, message: pb.ProcessingRequest) -> None:
        self._messages.put_nowait(message)

    def send_head(self, path: str, method: str = "POST", end_of_stream: bool = False, **fields: str) -> None:
        headers = {":method": method, ":path": path, "host": "x"} | {k.replace("_", "-"): v for k, v in fields.items()}
        message = pb.ProcessingRequest(request_headers=_headers(headers, end_of_stream))
        message.protocol_config.request_body_mode = self._mode
        message.protocol_config.response_body_mode = ext_proc.DUPLEX
        if self._hint is not None:
            hint = message.metadata_context.filter_metadata[ext_proc.SUBSET_NAMESPACE]
            hint.update({ext_proc.SUBSET: self._hint})
        self.send(message)

    def send_body(self, *pieces: bytes, ends: bool = True) -> None:
        for number, piece in enumerate(pieces, start=1):
            body = pb.HttpBody(body=piece, end_of_stream=ends and number == len(pieces))
            self.send(pb.ProcessingRequest(request_body=body))

    def ask(self, body: bytes, path: str = "/v1/chat/completions", **fields: str) -> None:
        self.send_head(path, **fields)
        self.send_body(body)

    def send_answer_head(self, status: int = 200, served: str = "", **fields: str) -> None:
        headers = {":status": str(status)} | {k.replace("_", "-"): v for k, v in fields.items()}
        message = pb.ProcessingRequest(response_headers=_headers(headers, False))
        if served:
            served_by = message.metadata_context.filter_metadata[ext_proc.DESTINATION_NAMESPACE]
            served_by.update({ext_proc.SERVED: served})
        self.send(message)

    def send_answer(self, *pieces: bytes, ends: bool = True) -> None:
        for number, piece in enumerate(pieces, start=1):
            body = pb.HttpBody(body=piece, end_of_stream=ends and number == len(pieces))
            self.send(pb.ProcessingRequest(response_body=body))

    async def response(self) -> pb.ProcessingResponse:
        return await anext(self._responses)

    async def endpoints(self) -> list[str]:
        """Where the next response says to go; header and metadata agree."""
        response = await self.response()
        assert response.WhichOneof("response") in ("request_headers", "request_body"), response
        common = getattr(response, response.WhichOneof("response")).response
        (header,) = common.header_mutation.set_headers
        assert header.header.key == ext_proc.DESTINATION
        picked: Any = response.dynamic_metadata.fields[ext_proc.DESTINATION_NAMESPACE].struct_value
        assert picked.fields[ext_proc.DESTINATION].string_value == header.header.raw_value.decode()
        return header.header.raw_value.decode().split(",")

    async def until_ended(self) -> None:
        """Nothing more is sent, and everything is answered."""
        self._messages.put_nowait(None)
        async for _ in self._responses:
            pass

    async def leave(self) -> None:
        """Break it off."""
        await self._responses.aclose()


def _headers(headers: dict[str, str], end_of_stream: bool) -> pb.HttpHeaders:
    values = [base_pb2.HeaderValue(key=name, raw_value=value.encode()) for name, value in headers.items()]
    return pb.HttpHeaders(headers=base_pb2.HeaderMap(headers=values), end_of_stream=end_of_stream)
