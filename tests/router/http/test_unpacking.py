"""Compressed bodies: unpacked here, bounded, and known by what is in them."""

import gzip
import json
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dualmap.router.http.limits import HttpLimits
from dualmap.router.http.request_reader import RequestReader
from dualmap.router.http.unpacking import FREE_BYTES, MOST_RATIO, CorruptBodyError, Unpacking, zstd
from tests.router.conftest import CHAT, post

DATA = json.dumps(CHAT).encode()
LIMIT_BYTES = 100_000


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


PACKED = {
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    "GZip": gzip.compress,
    "deflate": zlib.compress,
    " deflate ": raw_deflate,
    "zstd": zstd.compress,
    "identity": bytes,
    "": bytes,
    "identity, gzip,": gzip.compress,
}
SKIPPED = b"\x50\x2a\x4d\x18\x04\0\0\0more"  # a frame of zstd that holds nothing of the data


def in_members(pack, size: int):
    return lambda data: b"".join(pack(data[i : i + size]) for i in range(0, len(data), size))


IN_MEMBERS = {
    "two of gzip": ("gzip", in_members(gzip.compress, 50)),
    "many of gzip": ("gzip", in_members(gzip.compress, 2)),
    "two of zstd": ("zstd", in_members(zstd.compress, 50)),
    "many of zstd": ("zstd", in_members(zstd.compress, 2)),
    "a frame before": ("zstd", lambda data: SKIPPED + zstd.compress(data)),
    "a frame behind": ("zstd", lambda data: zstd.compress(data) + SKIPPED),
    "an empty one": ("gzip", lambda data: gzip.compress(b"") + gzip.compress(data) + gzip.compress(b"")),
}


def chunked(data: bytes, encoding: str) -> bytes:
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-encoding: {encoding}\r\n"
    chunks = b"".join(b"1\r\n%b\r\n" % data[i : i + 1] for i in range(len(data)))
    return head.encode() + b"transfer-encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"


@pytest.mark.parametrize("encoding", PACKED)
async def test_an_instance_gets_a_compressed_body_as_it_was(fleet, encoding):
    packed = PACKED[encoding](DATA)
    async with fleet() as f:
        client = await f.client()
        answer = await client.post("/v1/chat/completions", packed, f"Content-Encoding: {encoding}\r\n")
        assert answer.status == 200
        await client.send(chunked(packed, encoding))
        assert (await client.answer()).status == 200
        expected = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\n"
        await client.send(expected + f"content-encoding: {encoding}\r\ncontent-length: {len(packed)}\r\n\r\n".encode())
        assert (await client.answer_head()).status == 100
        await client.send(packed)
        assert (await client.answer()).status == 200
        for received in f.instances[0].received:
            assert received.body == DATA
            assert received.headers["content-length"] == str(len(DATA))
            assert "content-encoding" not in received.headers
        assert len(f.instances[0].received) == 3
        f.check_books_are_empty()


@pytest.mark.parametrize(("encoding", "pack"), IN_MEMBERS.values(), ids=IN_MEMBERS)
async def test_a_body_may_be_packed_in_several_members(fleet, encoding, pack):
    async with fleet() as f:
        client = await f.client()
        answer = await client.post("/v1/chat/completions", pack(DATA), f"content-encoding: {encoding}\r\n")
        assert answer.status == 200
        await client.send(chunked(pack(DATA), encoding))
        assert (await client.answer()).status == 200
        assert [received.body for received in f.instances[0].received] == [DATA] * 2


async def test_encodings_over_several_lines_are_one_list(fleet):
    async with fleet() as f:
        client = await f.client()
        lines = "content-encoding: gzip\r\ncontent-encoding: gzip\r\n"
        answer = await client.post("/v1/chat/completions", gzip.compress(gzip.compress(DATA)), lines)
        assert (answer.status, answer.error["message"][-13:]) == (415, "`gzip, gzip`.")


async def test_what_is_passed_through_is_unpacked_too(fleet):
    async with fleet() as f:
        client = await f.client()
        assert (await client.post("/v1/embeddings", gzip.compress(b"{}"), "content-encoding: gzip\r\n")).status == 200
        assert f.instances[0].received[0].body == b"{}"


async def test_an_encoding_of_no_body_is_of_no_concern(fleet):
    async with fleet() as f:
        client = await f.client()
        assert (await client.get("/v1/models", "content-encoding: br\r\n")).status == 200
        assert (await client.post("/v1/load", b"", "content-encoding: gzip\r\n")).status == 200
        assert f.instances[0].received[0].body == b""


@pytest.mark.parametrize("encoding", ["br", "gzip, zstd", "compress", "gzip;q=1", "\\xff"])
async def test_an_encoding_that_is_not_read_is_said_with_those_that_are(fleet, encoding):
    async with fleet() as f:
        client = await f.client()
        answer = await client.post("/v1/chat/completions", DATA, f"content-encoding: {encoding}\r\n")
        assert answer.status == 415
        assert answer.headers["accept-encoding"] == "gzip, deflate, zstd"
        message = f"A body's Content-Encoding can be one of gzip, deflate, zstd, not `{encoding}`."
        assert answer.error["message"] == message
        assert await client.at_end()
        assert not f.instances[0].received


BROKEN = {
    "is no gzip": ("gzip", DATA, "The body is not valid gzip."),
    "is no deflate": ("deflate", b"\x07\xff" + DATA, "The body is not valid deflate."),
    "is no zstd": ("zstd", DATA, "The body is not valid zstd."),
    "is damaged": ("gzip", gzip.compress(DATA)[:-8] + b"\0" * 8, "The body is not valid gzip."),
    "is cut": ("gzip", gzip.compress(DATA)[:-1], "The body ends before its gzip data does."),
    "is cut in zstd": ("zstd", zstd.compress(DATA)[:-1], "The body ends before its zstd data does."),
    "is a single byte": ("zstd", b"x", "The body ends before its zstd data does."),
    "goes on": ("gzip", gzip.compress(DATA) + b"more", "The body is not valid gzip."),
    "goes on with a byte": ("gzip", gzip.compress(DATA) + b"\x1f", "The body ends before its gzip data does."),
    "goes on in zstd": ("zstd", zstd.compress(DATA) + b"more", "The body is not valid zstd."),
    "goes on in deflate": ("deflate", zlib.compress(DATA) * 2, "The body goes on behind the end of its deflate data."),
    "goes on and on": ("gzip", gzip.compress(b"") * 1000, "The body goes on behind the end of its gzip data."),
    "goes on and on in zstd": ("zstd", SKIPPED * 1000, "The body goes on behind the end of its zstd data."),
}


@pytest.mark.parametrize("case", BROKEN)
async def test_a_body_that_cannot_be_unpacked_is_refused_in_words(fleet, case):
    encoding, body, message = BROKEN[case]
    async with fleet() as f:
        client = await f.client()
        answer = await client.post("/v1/chat/completions", body, f"content-encoding: {encoding}\r\n")
        assert (answer.status, answer.error["message"]) == (400, message)
        assert await client.at_end()
        assert not f.instances[0].received


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "zstd"])
async def test_a_body_may_be_as_large_unpacked_as_others_and_no_larger(fleet, encoding):
    async with fleet(max_body_bytes=LIMIT_BYTES) as f:
        client = await f.client()
        for size, status in ((LIMIT_BYTES, 200), (LIMIT_BYTES + 1, 413), (LIMIT_BYTES * 100, 413)):
            body = PACKED[encoding](b" " * size)
            assert len(body) < LIMIT_BYTES
            answer = await client.post("/v1/embeddings", body, f"content-encoding: {encoding}\r\n")
            assert answer.status == status
            if status == 413:
                assert await client.at_end()
                client = await f.client()


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "zstd"])
def test_no_more_of_a_bomb_is_unpacked_than_is_allowed(encoding):
    bomb = PACKED[encoding](b"\0" * 50_000_000)
    unpacking = Unpacking(encoding.encode(), LIMIT_BYTES)
    assert len(unpacking.feed(bomb)) == LIMIT_BYTES + 1
    assert unpacking.is_over_limit


def test_a_body_cannot_ask_for_more_memory_than_http_allows():
    packer = zstd.ZstdCompressor(options={zstd.CompressionParameter.window_log: 24})
    with pytest.raises(CorruptBodyError):
        Unpacking(b"zstd", LIMIT_BYTES).feed(packer.compress(DATA) + packer.flush())


@given(st.binary(max_size=2000), st.sampled_from(["gzip", "deflate", " deflate ", "zstd"]), st.data())
def test_a_body_is_the_same_however_it_is_cut(body: bytes, encoding: str, data: st.DataObject):
    packed = PACKED[encoding](body)
    unpacking = Unpacking(encoding.strip().encode(), len(body))
    unpacked, rest = b"", packed
    while rest:
        size = data.draw(st.integers(1, len(rest)))
        unpacked += unpacking.feed(rest[:size])
        rest = rest[size:]
    unpacking.check_end()
    assert unpacked == body
    assert not unpacking.is_over_limit


async def test_a_pipelined_request_follows_a_compressed_one(fleet):
    async with fleet() as f:
        client = await f.client()
        packed = post("/v1/chat/completions", gzip.compress(DATA), "content-encoding: gzip\r\n")
        await client.send(packed + post("/v1/chat/completions", DATA) + packed)
        assert [(await client.answer()).status for _ in range(3)] == [200] * 3
        assert [received.body for received in f.instances[0].received] == [DATA] * 3


@pytest.mark.parametrize("body", [zstd.compress(DATA), DATA])
def test_what_a_body_was_unpacked_with_is_let_go(body):
    reader = RequestReader(HttpLimits(), lambda request: None, lambda: 0.0)
    reader.feed(post("/v1/chat/completions", body, "content-encoding: zstd\r\n"))
    (request,) = reader.ready
    assert (request.refusal is None) is (body != DATA)
    assert request.unpacking is None


@pytest.mark.parametrize("pack", [gzip.compress, zlib.compress, zstd.compress])
def test_a_little_never_unpacks_to_much(pack):
    encoding = {gzip.compress: b"gzip", zlib.compress: b"deflate"}.get(pack, b"zstd")
    bomb = pack(bytes(16 << 20))
    for size in (1, 1000, len(bomb)):
        unpacking = Unpacking(encoding, 16 << 20)
        pieces = (bomb[i : i + size] for i in range(0, len(bomb), size))
        unpacked = 0
        while not unpacking.is_over_limit:
            unpacked += len(unpacking.feed(next(pieces)))
        assert unpacked <= max(FREE_BYTES, MOST_RATIO * len(bomb)) + 1


def test_what_is_packed_tight_may_be_a_mebibyte():
    data = b"a" * FREE_BYTES
    unpacking = Unpacking(b"gzip", 16 << 20)
    assert unpacking.feed(gzip.compress(data)) == data
    unpacking.check_end()
    assert not unpacking.is_over_limit
