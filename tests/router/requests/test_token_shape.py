"""Tokens known by their shape: the client gets, and the gateway notes, what it would if each event were read."""

import itertools
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dualmap.router.apis.chunk_stream import ChunkStream
from dualmap.router.apis.token_ids import TokenIds
from dualmap.router.apis.token_shape import token_shape
from dualmap.router.requests.answer_events import AnswerEvents

NONE_IS_KNOWN = ChunkStream(known=True)
NONE_IS_KNOWN.token = re.compile(b"(?!)")
TEXTS = st.text(alphabet=st.one_of(st.sampled_from('"\\[]{},: n"'), st.characters(codec="utf-8")), max_size=12) | (
    st.sampled_from(
        ['"},"logprobs":null,"finish_reason":null,"token_ids":[7]}]}', '\\"', "\\", '"', "\n\n", "error", ""]
    )
)
IDS = st.lists(st.integers(0, 200_000), max_size=3) | st.none() | st.just([[1, 2]]) | st.just(["1"])
KINDS = st.sampled_from(["content", "content", "content", "reasoning", "refusal"])
EXTRAS = st.sampled_from([{}, {}, {}, {"logprobs": {"content": []}}, {"finish_reason": "stop"}, {"stop_reason": '"'}])
BESIDE = st.sampled_from([{}, {}, {}, {"reasoning": 'a"'}, {"tool_calls": [{"index": 0}]}])


def event(text: str, ids: object, kind: str = "content", extra: dict = {}, beside: dict = {}) -> bytes:  # noqa: B006
    choice = {"index": 0, "delta": {kind: text} | beside, "logprobs": None, "finish_reason": None, "token_ids": ids}
    data = {"id": "chatcmpl-12345", "object": "chat.completion.chunk", "choices": [choice | extra]}
    return b"data: %b\n\n" % json.dumps(data, separators=(",", ":"), ensure_ascii=False).encode()


FIRST = event("", None).replace(b'"token_ids":null}]', b'"token_ids":null}],"prompt_token_ids":[1,2]')
EVENTS = st.lists(
    st.builds(event, TEXTS, IDS, KINDS, EXTRAS, BESIDE)
    | st.builds(event, TEXTS, st.just([123]))
    | st.sampled_from([b": a\n\n", b": a\n"]),
    max_size=12,
)


def relayed(reads: list[bytes], hides: bool | None, rules: ChunkStream) -> tuple[object, ...]:
    """What comes out of these reads, and what is known of the ids. hides: None: ids are not noted."""
    ids = None if hides is None else TokenIds(b'"content":"', hides)
    events = AnswerEvents(rules, True, ids)
    shown = b"".join(events.feed(read, False) for read in reads)
    return shown, ids and (ids.answer, ids.seen, ids.all_seen, ids.known, ids.calls, ids.reasoning)


@pytest.mark.parametrize("hides", [True, False, None])
@given(events=EVENTS, cuts=st.sets(st.integers(0, 3000)))
def test_it_is_as_if_each_event_were_read(hides, events, cuts):
    reads = [FIRST, event("a", [5]), *events]
    stream = b"".join(reads)
    edges = [0, *sorted(cut for cut in cuts if cut < len(stream)), len(stream)]
    expected = relayed(reads, hides, NONE_IS_KNOWN)
    for cut_up in (reads, [stream], [stream[a:b] for a, b in itertools.pairwise(edges)]):
        shown, known = relayed(cut_up, hides, ChunkStream(known=True))
        assert (shown, known) == expected


@pytest.mark.parametrize("text", ["a", 'say "a"', "\\", '\\"'])
def test_one_more_token_is_known_whatever_it_says(text):
    ids = TokenIds(b'"content":"', hides=True)
    start, behind = re.fullmatch(rb'(.*"content":")a(".*)', event("a", None), re.DOTALL).groups()
    shape = token_shape(start, behind, ids)
    assert shape.take(event(text, [12, 345])) == event(text, None)
    assert ids.answer == b"12,345]"


@pytest.mark.parametrize(
    "other",
    [
        event("", [1]),
        event("a", []),
        event("a", None),
        event("a", [[1]]),
        event("a", [1], "reasoning"),
        event("a", [1], extra={"finish_reason": "stop"}),
        event("a", [1], beside={"reasoning": "b"}),
        event('a"', [1], beside={"reasoning": '"'}),
        event("a", [1]) * 2,
        event("a", [1])[:-1],
    ],
)
def test_what_may_be_something_else_is_read(other):
    ids = TokenIds(b'"content":"', hides=True)
    start, behind = re.fullmatch(rb'(.*"content":")a(".*)', event("a", None), re.DOTALL).groups()
    assert token_shape(start, behind, ids).take(other) is None
    assert not ids.answer


def test_what_comes_in_another_shape_for_long_is_known_by_it():
    ids = TokenIds(b'"content":"', hides=True)
    events = AnswerEvents(ChunkStream(known=True), True, ids)
    for read in (FIRST, event("a", [1], "reasoning"), event("b", [2])):
        events.feed(read, False)
    assert events.tokens is not None
    assert events.tokens.take(event("c", [3])) == event("c", None)
    assert (ids.seen, ids.reasoning) == ([b"1", b"2", b"3"], False)
