"""One path for a request, in whatever form its target comes: what is looked at here is what an instance gets."""

from urllib.parse import unquote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dualmap.router.http.openai_errors import HttpError
from dualmap.router.http.request_target import LONGEST_KEPT_BYTES, RequestTarget, read_target
from tests.router.conftest import CHAT, post

TAKEN = {
    b"/v1/chat/completions": "/v1/chat/completions",
    b"/v1/chat/completions/": "/v1/chat/completions",
    b"//v1//chat/./completions": "/v1/chat/completions",
    b"/v1/%63hat/completions": "/v1/chat/completions",
    b"/v1/chat%2Fcompletions": "/v1/chat/completions",
    b"http://gateway/v1/models": "/v1/models",
    b"HTTPS://gateway:8080/v1/models": "/v1/models",
    b"http://user@[::1]:8080/v1/models": "/v1/models",
    b"http://gateway": "/",
    b"/": "/",
    b"/v1/../sleep": "/sleep",
    b"/v1/models/../../sleep": "/sleep",
    b"/v1/%2e%2E/sleep": "/sleep",
    b"/v1/..%2fsleep": "/sleep",
    b"/../..": "/",
    b"/v1/.../x": "/v1/.../x",
    b"/v1/models/meta-llama%2fLlama-3": "/v1/models/meta-llama/Llama-3",
    b"/v1/responses/resp_1:x": "/v1/responses/resp_1:x",
    b"/caf%C3%A9": "/caf\N{LATIN SMALL LETTER E WITH ACUTE}",
    b"/caf\xc3\xa9": "/caf\N{LATIN SMALL LETTER E WITH ACUTE}",
}
REFUSED = (
    b"/v1/%252e%252e/sleep",  # would be decoded once more
    b"/v1/..%5csleep",
    b"/v1/..\\sleep",
    b"/v1/..;/sleep",
    b"/v1/models;x=1",
    b"/v1/%00",
    b"/v1/%0d%0ax",
    b"/v1/models#part",
    b"/%",
    b"/%4",
    b"/%zz",
    b"/%ff",
    b"/\xff",
    b"v1/models",
    b"ftp://gateway/v1/models",
    b"http:///v1/models",
    b"*",
)


@pytest.mark.parametrize("target", TAKEN)
@pytest.mark.parametrize("query", [b"", b"?", b"?a=/../%2e&b=//"])
def test_a_path_is_known_in_every_spelling_and_sent_in_one(target: bytes, query: bytes):
    read = read_target(target + query, "GET")
    assert isinstance(read, RequestTarget)
    assert read.path == TAKEN[target]
    sent, mark, rest = read.target.partition(b"?")
    assert mark + rest == query
    assert unquote(sent.decode()) == read.path


@pytest.mark.parametrize("target", REFUSED)
def test_a_path_that_can_be_read_in_two_ways_is_refused(target: bytes):
    refused = read_target(target, "GET")
    assert isinstance(refused, HttpError)
    assert refused.status == 400


def test_all_of_a_server_can_be_asked_for_its_options():
    assert read_target(b"*", "OPTIONS") == RequestTarget("*", b"*")


def test_long_targets_are_read_and_not_remembered():
    path = b"/" + b"a" * LONGEST_KEPT_BYTES
    assert read_target(path, "GET") == RequestTarget(path.decode(), path)


@given(
    st.lists(
        st.sampled_from([b"/", b".", b"..", b"%2e", b"%2F", b"%25", b"%5c", b";", b"v1", b"sleep", b"%C3%A9", b" "])
    )
)
@example([b"/", b"%25", b"2e"])
def test_what_is_sent_reads_the_same_for_whoever_reads_it_next(parts: list[bytes]):
    read = read_target(b"/" + b"".join(parts), "GET")
    if isinstance(read, HttpError):
        return
    assert read_target(read.target, "GET") == read
    assert unquote(read.target.decode()) == read.path
    assert unquote(read.path) == read.path
    assert not {"", ".", ".."} & set(read.path[1:].split("/") if read.path != "/" else [])


SPELLINGS = (
    "/v1/chat/completions",
    "/v1/chat/completions/",
    "//v1/chat/completions",
    "http://gateway:8080/v1/chat/completions",
    "/v1/chat%2fcompletions",
    "/v1/%63hat/completions?",
)


async def test_every_spelling_is_served_alike_and_an_instance_sees_one_of_them(fleet):
    async with fleet() as f:
        client = await f.client()
        for target in SPELLINGS:
            assert (await client.post(target + "?" * ("?" not in target) + "beta=true", CHAT)).status == 200
        lines = {received.line for received in f.instances[0].received}
        assert lines == {"POST /v1/chat/completions?beta=true HTTP/1.1"}
        f.check_books_are_empty()


async def test_a_path_that_climbs_out_is_what_it_climbs_to(fleet):
    async with fleet() as f:
        for target in ("/v1/../sleep", "/v1/%2e%2e/sleep", "/v1/x%2f..%2f..%2fsleep"):
            client = await f.client()
            answer = await client.post(target, {})
            assert answer.status == 403
            assert answer.error["message"].startswith("`/sleep` steers a server")
        client = await f.client()
        await client.send(post("/v1/%252e%252e/sleep", {}))
        assert (await client.answer()).error["type"] == "BadRequestError"
        assert await client.at_end()
        assert not f.instances[0].received
