"""state_ids.py: ids of what instances keep, in paths, bodies and answers."""

import json

import pytest

from dualmap.router.apis.state_ids import MAX_SOUGHT_BYTES, StateSeeker, path_state_id

CREATED = {"type": "response.created", "sequence_number": 0}


@pytest.mark.parametrize(
    ("path", "state_id"),
    [
        ("/v1/responses/resp_1", "resp_1"),
        ("/v1/responses/resp_1/cancel", "resp_1"),
        ("/v1/responses/resp_1/input_items", "resp_1"),
        ("/v1/conversations/conv_1/items/msg_1", "conv_1"),
        ("/v1/responses/resp%5F1", "resp_1"),
        ("/v1/responses", ""),
        ("/v1/responses/", ""),
        ("/v1/chat/completions", ""),
    ],
)
def test_a_path_names_what_it_is_about(path, state_id):
    assert path_state_id(path) == state_id


@pytest.mark.parametrize(
    "answer",
    [
        {"id": "resp_1", "object": "response", "output": [{"id": "msg_1"}]},
        {"object": "response", "created_at": 1.5, "error": None, "id": "resp_1"},
        {"output": [{"id": "msg_1"}], "metadata": {"id": "resp_2"}, "id": "resp_1"},
    ],
)
@pytest.mark.parametrize("indent", [None, 1])
def test_the_id_of_a_plain_answer_is_that_of_the_whole_and_of_no_part(answer, indent):
    seeker = StateSeeker(event_stream=False)
    assert seeker.feed(json.dumps(answer, indent=indent).encode(), complete=True) == "resp_1"
    assert not seeker.seeks


@pytest.mark.parametrize("answer", [b"", b"[]", b'{"id": 7}', b'{"ids": "resp_1"}', b"\xff"])
def test_an_answer_without_one_is_no_error(answer):
    assert StateSeeker(event_stream=False).feed(answer, complete=True) == ""


@pytest.mark.parametrize(
    "event",
    [
        {"response": {"id": "resp_1", "tools": [{"id": "t"}]}, **CREATED},
        {**CREATED, "response": {"object": "response", "status": "in_progress", "id": "resp_1"}},
        {**CREATED, "response": {"metadata": {"id": "resp_2"}, "output": [], "id": "resp_1"}, "id": "event_1"},
    ],
)
@pytest.mark.parametrize("step", [1, 7, 10_000])
def test_a_stream_says_it_in_its_first_event_whatever_pieces_that_comes_in(event, step):
    stream = f": hello\n\nevent: response.created\ndata: {json.dumps(event)}\n\n".encode()
    seeker = StateSeeker(event_stream=True)
    found = [seeker.feed(stream[i : i + step], complete=False) for i in range(0, len(stream), step) if seeker.seeks]
    assert [state_id for state_id in found if state_id] == ["resp_1"]


@pytest.mark.parametrize(
    "stream",
    [
        b'data: {"type":"error","message":"no"}\n\n',
        b'data: {"text":"\\"response\\":{\\"id\\":\\"resp_1\\""}\n\n',
        b'data: {"metadata":{"response":{"id":"resp_1"}}}\n\n',
        b": nothing but comments " * MAX_SOUGHT_BYTES,
    ],
)
def test_a_stream_that_says_none_is_not_searched_to_its_end(stream):
    seeker = StateSeeker(event_stream=True)
    assert seeker.feed(stream, complete=False) == ""
    assert not seeker.seeks
