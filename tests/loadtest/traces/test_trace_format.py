"""The Mooncake format, read and written."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dualmap.loadtest.traces.trace import BLOCK_TOKENS, TraceError, TraceRequest, read_trace, select, write_trace

GOOD = '{"timestamp": 10, "input_length": 600, "output_length": 5, "hash_ids": [0, 1]}\n'


@st.composite
def traces(draw):
    times = sorted(draw(st.lists(st.integers(0, 10**7), min_size=1, max_size=20)))
    requests = []
    for timestamp_ms in times:
        length = draw(st.integers(1, 5000))
        blocks = -(-length // BLOCK_TOKENS)
        ids = draw(st.lists(st.integers(0, 2**62), min_size=blocks, max_size=blocks))
        requests.append(TraceRequest(timestamp_ms, length, draw(st.integers(1, 4000)), tuple(ids)))
    return requests


@given(traces())
def test_what_is_written_is_read_back(tmp_path_factory, requests):
    path = tmp_path_factory.mktemp("trace") / "t.jsonl"
    write_trace(path, requests)
    assert read_trace(path) == requests


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("{", "not JSON"),
        ("[1]", "expected an object, found list"),
        ('{"timestamp": 20, "output_length": 5, "hash_ids": [0]}', "input_length is missing"),
        ('{"timestamp": -1, "input_length": 6, "output_length": 5, "hash_ids": [0]}', "timestamp must be"),
        ('{"timestamp": 20, "input_length": "6", "output_length": 5, "hash_ids": [0]}', "found '6'"),
        ('{"timestamp": 20, "input_length": true, "output_length": 5, "hash_ids": [0]}', "input_length must be"),
        ('{"timestamp": 20, "input_length": 6, "output_length": 0, "hash_ids": [0]}', "output_length must be"),
        ('{"timestamp": 20, "input_length": 6, "output_length": 5, "hash_ids": ["a"]}', "hash_ids must be"),
        ('{"timestamp": 20, "input_length": 6, "output_length": 5, "hash_ids": [-4]}', "hash_ids must be"),
        ('{"timestamp": 20, "input_length": 600, "output_length": 5, "hash_ids": [0]}', "need 2 hash_ids"),
        ('{"timestamp": 9, "input_length": 6, "output_length": 5, "hash_ids": [0]}', "comes after 10: sort"),
    ],
)
def test_a_bad_line_is_named_with_file_line_and_reason(tmp_path, line, complaint):
    path = tmp_path / "bad.jsonl"
    path.write_text(GOOD + "\n" + line + "\n")
    with pytest.raises(TraceError) as error:
        read_trace(path)
    assert str(error.value).startswith(f"{path}, line 3: ")
    assert complaint in str(error.value)


@pytest.mark.parametrize("content", [None, "", "\n\n"])
def test_a_file_that_is_absent_or_empty_is_an_error(tmp_path, content):
    path = tmp_path / "t.jsonl"
    if content is not None:
        path.write_text(content)
    with pytest.raises(TraceError, match=r"t\.jsonl"):
        read_trace(path)


def test_the_limit_counts_only_prompts_that_are_short_enough():
    requests = [TraceRequest(i, length, 1, (0,)) for i, length in enumerate((100, 500, 200, 300))]
    assert [r.input_length for r in select(requests, limit=2, max_input_tokens=300)] == [100, 200]


def test_the_public_trace_is_read_whole(mooncake_trace):
    assert len(read_trace(mooncake_trace)) == 12_031
