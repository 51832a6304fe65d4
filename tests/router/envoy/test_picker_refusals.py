"""What the endpoint picker refuses, and in which words."""

import json

import pytest

from dualmap.router.envoy import ext_proc
from dualmap.router.http.limits import HttpLimits
from tests.router.envoy.test_picker import CHAT, Picking, refused


@pytest.mark.parametrize("hint", [[], ["10.9.9.9:1"]])
async def test_where_no_endpoint_of_the_hint_is_ready_the_answer_is_503(hint):
    stream = Picking("a").stream(hint=hint)
    stream.ask(CHAT)
    status, _, headers = await refused(stream)
    assert (status, headers["retry-after"]) == (503, "1")


@pytest.mark.parametrize(
    ("instances", "body", "status", "kind"),
    [
        ((), CHAT, 503, "ServiceUnavailableError"),
        (("a",), b'{"model":"tiny","messages":[' + b" " * 5000 + b"]}", 413, "RequestTooLargeError"),
    ],
)
async def test_what_cannot_be_picked_for_is_refused_as_the_gateway_does(instances, body, status, kind):
    picking = Picking(*instances, limits=HttpLimits(max_body_bytes=len(CHAT) if body is CHAT else 4000))
    stream = picking.stream()
    stream.ask(body)
    told, error, headers = await refused(stream)
    assert (told, error["type"], headers["content-type"]) == (status, kind, "application/json")
    await stream.until_ended()
    picking.check_books_are_empty()


@pytest.mark.parametrize(
    ("path", "status"),
    [("/sleep", 403), ("/v1/%2e%2e/collective_rpc", 403), ("/v1/files", 501), ("/v1/%252e%252e/sleep", 400)],
)
async def test_what_steers_a_server_is_not_picked_for(path, status):
    picking = Picking("a", "b")
    stream = picking.stream()
    stream.ask(b"{}", path)
    assert (await refused(stream))[0] == status
    stream = picking.stream(mode=ext_proc.Mode.NONE)
    stream.send_head(path, "POST", end_of_stream=True)
    assert (await refused(stream))[0] == status
    picking.check_books_are_empty()


async def test_errors_of_messages_have_the_shape_that_their_clients_read():
    stream = Picking().stream()
    stream.ask(CHAT, "/v1/messages")
    response = (await stream.response()).immediate_response
    error = json.loads(response.body)
    assert (response.status.code, error["type"], error["error"]["type"]) == (503, "error", "overloaded_error")


async def test_adapters_are_not_loaded_on_one_instance_for_all():
    stream = Picking("a", "b").stream()
    stream.ask(b'{"lora_name":"sql","lora_path":"/sql"}', "/v1/load_lora_adapter")
    status, error, _ = await refused(stream)
    assert (status, error["type"]) == (501, "NotImplementedError")


@pytest.mark.parametrize("order", ["a body first", "trailers first", "a second head"])
async def test_a_proxy_that_does_not_send_headers_once_and_first_is_told_so(order):
    picking = Picking("a")
    stream = picking.stream()
    if order == "a body first":
        stream.send_body(CHAT)
    elif order == "trailers first":
        stream.send(ext_proc.pb.ProcessingRequest(request_trailers=ext_proc.pb.HttpTrailers()))
    else:
        stream.send_head("/v1/chat/completions", end_of_stream=True)
        await stream.endpoints()
        stream.send_head("/v1/chat/completions", end_of_stream=True)
    status, error, _ = await refused(stream)
    assert status == 502
    assert "request_header_mode" in error["message"]
    await stream.leave()
    picking.check_books_are_empty()


async def test_an_answers_status_that_is_no_number_is_none():
    picking = Picking("a")
    stream, _ = await picking.asked()
    stream.send_answer_head("\N{SUPERSCRIPT TWO}")
    await stream.until_ended()
    picking.check_books_are_empty()
