"""JSON in any encoding that vLLM takes reaches instances as UTF-8."""

import codecs
import json

import pytest

from dualmap.router.http.json_text import in_utf8
from tests.router.conftest import STREAM, answer_hello

TEXT = json.dumps({**STREAM, "x": "\N{SNOWMAN}"}, ensure_ascii=False)
ENCODED = {
    "UTF-8": TEXT.encode(),
    "UTF-8 with a mark": codecs.BOM_UTF8 + TEXT.encode(),
    "UTF-16 with a mark": TEXT.encode("utf-16"),
    "UTF-16, little end first": TEXT.encode("utf-16-le"),
    "UTF-16, big end first, with a mark": codecs.BOM_UTF16_BE + TEXT.encode("utf-16-be"),
    "UTF-32": TEXT.encode("utf-32"),
    "UTF-32, big end first": TEXT.encode("utf-32-be"),
    "UTF-8 behind a space": b" " + TEXT.encode(),
    "UTF-16 behind many spaces": (" \n" * 500 + TEXT).encode("utf-16"),
    "UTF-32, big end first, behind many spaces": (" " * 500 + TEXT).encode("utf-32-be"),
}


@pytest.mark.parametrize("encoding", ENCODED)
async def test_an_instance_gets_json_in_utf_8(fleet, encoding):
    async with fleet(answer_hello) as f:
        client = await f.client()
        headers = "content-type: application/json; charset=utf-8\r\n"
        assert (await client.post("/v1/chat/completions", ENCODED[encoding], headers)).status == 200
        (received,) = f.instances[0].received
        assert json.loads(received.body.decode()) == json.loads(TEXT) | {"stream_options": {"include_usage": True}}
        assert received.headers["content-length"] == str(len(received.body))


def test_half_of_a_surrogate_pair_stays_what_it_is():
    text = '{"a":"\ud800"}'
    assert json.loads(in_utf8(text.encode("utf-16-le", "surrogatepass"))) == json.loads(text)


OTHERS = {
    "nothing": b"",
    "a form": b'--b\r\ncontent-disposition: form-data; name="x"\r\n\r\n1\r\n--b--',
    "sound": b"\xff\xfe\x01\x02" * 50,
    "half a character": "{}".encode("utf-16") + b"\xd8",
    "no text": b"{\0\xd8",
    "noise": b"\0\0\0{" + b"\xff" * 9,
    "a byte": b"{",
}


@pytest.mark.parametrize("body", OTHERS.values(), ids=list(OTHERS))
def test_what_is_no_json_stays_as_it_came(body: bytes):
    assert in_utf8(body) == body
