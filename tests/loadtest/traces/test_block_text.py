"""The text of a block id."""

import json
import subprocess
import sys

from hypothesis import given
from hypothesis import strategies as st

from dualmap.loadtest.replay.request_body import COMPLETIONS_PATH, RequestBytes
from dualmap.loadtest.traces.text import block_bytes, prompt_bytes, prompt_text, prompt_token_ids
from dualmap.loadtest.traces.trace import TraceRequest

ids = st.integers(0, 2**63)


@given(ids)
def test_a_block_is_2048_bytes_that_json_does_not_escape(hash_id):
    text = block_bytes(hash_id).decode("ascii")
    assert len(text) == 2048
    assert json.dumps(text) == f'"{text}"'
    assert len(text.split()) == 512


@given(ids, ids)
def test_different_ids_differ_early(a, b):
    assert (block_bytes(a)[:64] == block_bytes(b)[:64]) == (a == b)


def test_the_text_of_an_id_is_the_same_in_every_process():
    assert block_bytes(12345)[:32] == b"mir vit son wer hen van zol zit "
    other = subprocess.run(
        [
            sys.executable,
            "-c",
            "from dualmap.loadtest.traces.text import block_bytes; print(block_bytes(12345).decode(), end='')",
        ],
        capture_output=True,
        check=True,
    )
    assert other.stdout == block_bytes(12345)


@given(st.lists(ids, min_size=1, max_size=5), st.integers(1, 512), ids)
def test_shared_blocks_are_shared_bytes_and_a_partial_block_its_first_bytes(shared, rest, other):
    full = TraceRequest(0, 512 * (len(shared) + 1), 1, (*shared, other))
    partial = TraceRequest(0, 512 * len(shared) + rest, 1, (*shared, other))
    assert len(prompt_bytes(partial)) == partial.input_length * 4
    assert prompt_bytes(full).startswith(prompt_bytes(partial))
    assert prompt_text(partial).encode() == prompt_bytes(partial)


@given(st.lists(ids, min_size=1, max_size=5), st.integers(1, 512), ids)
def test_as_token_ids_a_prompt_has_its_exact_length_and_shares_what_its_blocks_share(shared, rest, other):
    full = TraceRequest(0, 512 * (len(shared) + 1), 1, (*shared, other))
    partial = TraceRequest(0, 512 * len(shared) + rest, 1, (*shared, other))
    whole, part = json.loads(prompt_token_ids(full)), json.loads(prompt_token_ids(partial))
    assert (len(whole), len(part)) == (full.input_length, partial.input_length)
    assert whole[: len(part)] == part
    assert all(1000 <= token < 8000 for token in whole)
    assert prompt_token_ids(full).startswith(prompt_token_ids(partial)[:-1])


def test_a_request_carries_its_prompt_as_token_ids_if_wanted():
    request = TraceRequest(0, 700, 5, (1, 2))
    sent = RequestBytes("host", COMPLETIONS_PATH, "m", token_ids=True).build(request)
    body = json.loads(sent.partition(b"\r\n\r\n")[2])
    assert body["prompt"] == json.loads(prompt_token_ids(request))
    assert body["max_tokens"] == 5
