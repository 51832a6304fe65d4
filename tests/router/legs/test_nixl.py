"""What the answer to a prefill leg tells the decode leg, as NixlConnector gives it."""

import json

import pytest

from dualmap.router.apis.usage import NO_USAGE, Usage
from dualmap.router.legs.nixl import Nixl
from tests.router.legs.made_dispatch import dispatch

USAGE = {"prompt_tokens": 9, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 4}}


@pytest.mark.parametrize(
    ("answer", "params", "usage"),
    [
        (b'{"kv_transfer_params": {"a": 1}}', b'{"a": 1}', NO_USAGE),
        (b'{"kv_transfer_params": {"a": 1},"usage":%b}' % json.dumps(USAGE).encode(), b'{"a": 1}', Usage(9, 1, 4)),
        (b'{"kv_transfer_params":{"a":[1,2]},"usage":%b}' % json.dumps(USAGE).encode(), b'{"a":[1,2]}', Usage(9, 1, 4)),
        (
            b'{"usage":%b,"kv_transfer_params":{"a":"b"},"c":1}' % json.dumps(USAGE).encode(),
            b'{"a":"b"}',
            Usage(9, 1, 4),
        ),
        (
            b'{"usage":%b,"kv_transfer_params":{"a":"b","c":[[1],[2]],"d":null}}' % json.dumps(USAGE).encode(),
            b'{"a":"b","c":[[1],[2]],"d":null}',
            Usage(9, 1, 4),
        ),
        (
            b'{"usage":%b,"kv_transfer_params":{"a":"}","c":"{"}}' % json.dumps(USAGE).encode(),
            b'{"a":"}","c":"{"}',
            Usage(9, 1, 4),
        ),
        (b'{"usage":%b,"kv_transfer_params":{"a":{"b":1}}' % json.dumps(USAGE).encode(), b"", Usage(9, 1, 4)),
        (b'{"b":{"usage":%b,"kv_transfer_params":{"a":1}}}' % json.dumps(USAGE).encode(), b"", NO_USAGE),
        (b'{"kv_transfer_params":{"a":{"b":1},"c":2}}', b'{"a":{"b":1},"c":2}', NO_USAGE),
        (b'{"kv_transfer_params":{"a":"}","c":"\\"}"}}', b'{"a":"}","c":"\\"}"}', NO_USAGE),
        (b'{"kv_transfer_params":{"a":"}"}}', b'{"a":"}"}', NO_USAGE),
        (b'{"kv_transfer_params":{"a":"{"}}', b'{"a":"{"}', NO_USAGE),
        (b'{"kv_transfer_params":{"a":1', b"", NO_USAGE),
        (b'{"text":"\\"kv_transfer_params\\":{\\"a\\":1}","kv_transfer_params":null}', b"", NO_USAGE),
        (b'{"kv_transfer_params": null}', b"", NO_USAGE),
        (b'{"kv_transfer_params": 5}', b"", NO_USAGE),
        (b'{"kv_transfer_params": {"a": 1},"usage":{"prompt_tokens":"x"}}', b"", NO_USAGE),
        (b"{}", b"", NO_USAGE),
        (b"what", b"", NO_USAGE),
        (b"[]", b"", NO_USAGE),
    ],
)
def test_what_an_answer_tells_of_the_computed_prompt(answer, params, usage):
    handoff = Nixl().hand_over(dispatch("r", 1), answer, None)
    assert (handoff.params, handoff.usage) == (params, usage)
