"""A proxy's side of the picker benchmark: `python -m dualmap.loadtest.overhead.picker_load JSON`, of a `Load`.

Each request is a stream of Envoy's external processing in full-duplex mode: its head and body, then the head and body
of its answer. Prints what became of them, as the load on gateways does.
"""

import asyncio
import sys

import grpc
import msgspec
from envoy.config.core.v3 import base_pb2
from envoy.service.ext_proc.v3 import external_processor_pb2 as pb
from envoy.service.ext_proc.v3.external_processor_pb2_grpc import ExternalProcessorStub

from dualmap.loadtest.overhead.load import Load, Loader
from dualmap.router.envoy import ext_proc

ANSWER = b'{"choices":[{"index":0,"message":{"content":" token"}}],"usage":{"prompt_tokens":50,"completion_tokens":1}}'


async def run(load: Load) -> Loader:
    loader = Loader(load)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{load.port}") as channel:
        await channel.channel_ready()
        stub = ExternalProcessorStub(channel)
        await asyncio.gather(*(_client(stub, loader) for _ in range(load.connections)))
    return loader


async def _client(stub: ExternalProcessorStub, loader: Loader) -> None:
    while (request := loader.next_request()) is not None:
        body = request.partition(b"\r\n\r\n")[2]
        try:
            await _exchange(stub.Process(), body)
            loader.ok += 1
        except (grpc.aio.AioRpcError, AssertionError) as error:
            loader.first_failure = loader.first_failure or repr(error)


async def _exchange(call: grpc.aio.StreamStreamCall, body: bytes) -> None:
    """What Envoy says of a request, in its order. Raises AssertionError if an answer is another than the expected."""
    head = _headers(_REQUEST | {"content-length": str(len(body))})
    message = pb.ProcessingRequest(request_headers=head)
    message.protocol_config.request_body_mode = message.protocol_config.response_body_mode = ext_proc.DUPLEX
    await call.write(message)
    await call.write(pb.ProcessingRequest(request_body=pb.HttpBody(body=body, end_of_stream=True)))
    await _expect(call, "request_headers")
    await _expect(call, "request_body")
    await call.write(pb.ProcessingRequest(response_headers=_headers(_RESPONSE)))
    await call.write(pb.ProcessingRequest(response_body=pb.HttpBody(body=ANSWER, end_of_stream=True)))
    await _expect(call, "response_headers")
    await _expect(call, "response_body")
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF


async def _expect(call: grpc.aio.StreamStreamCall, kind: str) -> None:
    response = await call.read()
    assert response.WhichOneof("response") == kind, response


_REQUEST = {
    ":method": "POST",
    ":scheme": "http",
    ":authority": "models.example",
    ":path": "/v1/chat/completions",
    "content-type": "application/json",
    "user-agent": "openai-python",
    "accept": "application/json",
    "x-forwarded-proto": "http",
    "x-request-id": "1f0c2f2c-8a43-4bd4-b2c5-0f1f3b1d7f5e",
}
_RESPONSE = {":status": "200", "content-type": "application/json", "content-length": str(len(ANSWER))}


def _headers(headers: dict[str, str]) -> pb.HttpHeaders:
    values = [base_pb2.HeaderValue(key=name, raw_value=value.encode()) for name, value in headers.items()]
    return pb.HttpHeaders(headers=base_pb2.HeaderMap(headers=values))


if __name__ == "__main__":
    chosen = msgspec.json.decode(sys.argv[1], type=Load)
    done = asyncio.run(run(chosen))
    result = {"ok": done.ok, "failed": chosen.requests - done.ok, "first_failure": done.first_failure}
    print(msgspec.json.encode(result).decode())
