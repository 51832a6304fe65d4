"""Bodies at the edge of what vLLM takes, each with the status that vLLM 0.32 answers: 200 where it takes the body.

What stands in front of vLLM should take what vLLM takes, and let vLLM refuse the rest in its own words. The model is
called MODEL; it is a text model without parsers for tools.
"""

import json
from typing import Any, NamedTuple

MODEL = "tiny"
CHAT, COMPLETION, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"
HI = [{"role": "user", "content": "hi"}]
JSON = "application/json"
ABSENT: Any = object()
DEEP = 200  # levels of lists
TOO_DEEP = 20_000

BASES: dict[str, dict[str, Any]] = {
    CHAT: {"model": MODEL, "max_tokens": 2, "messages": HI},
    COMPLETION: {"model": MODEL, "max_tokens": 2, "prompt": "hi"},
    RESPONSES: {"model": MODEL, "max_output_tokens": 2, "input": "hi"},
    MESSAGES: {"model": MODEL, "max_tokens": 2, "messages": HI},
}
LENGTH = {path: "max_output_tokens" if path == RESPONSES else "max_tokens" for path in BASES}


class LenientBody(NamedTuple):
    """path: of the API. status: vLLM's. content_type: None: there is no such header."""

    name: str
    path: str
    body: bytes
    status: int
    content_type: str | None = JSON


def fields(path: str, **changed: Any) -> bytes:
    """The body that is always taken, with some fields changed or ABSENT."""
    merged = BASES[path] | changed
    return json.dumps({key: value for key, value in merged.items() if value is not ABSENT}).encode()


def said(content: Any, **more: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": content, **more}]


def of_all_apis() -> list[LenientBody]:
    """What is read alike whichever API it is for."""
    found = []
    for path in BASES:
        raw = fields(path)
        length = LENGTH[path]
        for name, changed, status in (
            ("a number as a string", {length: "2"}, 200),
            ("a number as a string with spaces and a fraction of zero", {length: " 2.0 "}, 200),
            ("a whole number as a float", {length: 2.0}, 200),
            ("true as a number", {length: True}, 200),
            ("a broken number", {length: 2.5}, 400),
            ("a word as a number", {length: "two"}, 400),
            ("a list as a number", {length: [2]}, 400),
            ("no length", {length: 0}, 400),
            ("a negative length", {length: -1}, 400),
            ("a number of 31 digits", {length: 10**30}, 400),
            ("stream 0", {"stream": 0}, 200),
            ("stream 1.0", {"stream": 1.0}, 200),
            ("stream as a word", {"stream": "yes"}, 200),
            ("stream null", {"stream": None}, 200),
            ("stream 2", {"stream": 2}, 400),
            ("stream as another word", {"stream": "maybe"}, 400),
            ("a temperature as a string", {"temperature": "0.5"}, 200),
            ("a temperature in words", {"temperature": "hot"}, 400),
            ("a temperature too high", {"temperature": 5}, 400),
            ("a model that is no string", {"model": 5}, 400),
            ("a model that is not there", {"model": " tiny"}, 404),
            ("fields nobody knows", {"no_such_field": {"a": [1]}, "another": None}, 200),
        ):
            found.append(LenientBody(name, path, fields(path, **changed), status))
        for name, body, status in (
            ("a byte order mark", b"\xef\xbb\xbf" + raw, 200),
            ("UTF-16", raw.decode().encode("utf-16"), 200),
            ("no UTF-8", raw.replace(b"hi", b"\xe9"), 400),
            ("a key twice: the last counts", b'{"%b": 0, ' % length.encode() + raw[1:], 200),
            ("NaN where nobody looks", raw[:-1] + b', "x": NaN, "y": -Infinity}', 200),
            ("NaN as a temperature", raw[:-1] + b', "temperature": NaN}', 400),
            ("spaces around", b" \r\n\t" + raw + b"\n", 200),
            ("a comma at the end", raw[:-1] + b",}", 400),
            ("something after the end", raw + b" x", 400),
            ("a comment", raw + b"// done", 400),
            ("single quotes", raw.replace(b'"', b"'"), 400),
            ("a list", b"[" + raw + b"]", 400),
            ("JSON in a string", json.dumps(raw.decode()).encode(), 400),
            ("null", b"null", 400),
            ("nothing", b"", 400),
            ("nested a little", raw[:-1] + b', "x": ' + b"[" * DEEP + b"]" * DEEP + b"}", 200),
            ("nested too deep", raw[:-1] + b', "x": ' + b"[" * TOO_DEEP + b"]" * TOO_DEEP + b"}", 400),
            ("half of a surrogate pair", raw.replace(b"hi", b"\\ud800"), 400),
            ("a NUL, escaped", raw.replace(b"hi", b"\\u0000"), 200),
            ("a tab, not escaped", raw.replace(b"hi", b"h\ti"), 400),
        ):
            found.append(LenientBody(name, path, body, status))
        for content_type, status in (
            ("Application/JSON; charset=utf-8", 200),
            ("application/vnd.api+json", 400),
            ("text/plain", 400),
            (None, 400),
        ):
            found.append(LenientBody(f"content-type {content_type}", path, raw, status, content_type))
        missing = 400 if path == MESSAGES else 200
        for name, model in (("no model", ABSENT), ("model null", None), ("model empty", "")):
            found.append(LenientBody(name, path, fields(path, model=model), missing))
    return found


CHATS: tuple[tuple[str, dict[str, Any], int], ...] = (
    ("text parts", {"messages": said([{"type": "text", "text": "h"}, {"type": "text", "text": "i"}])}, 200),
    ("content null", {"messages": said(None)}, 400),
    ("no content", {"messages": [{"role": "user"}]}, 200),
    ("content empty", {"messages": said("")}, 200),
    ("no parts", {"messages": said([])}, 200),
    ("content a number", {"messages": said(5)}, 400),
    ("content one part, in no list", {"messages": said({"type": "text", "text": "hi"})}, 400),
    ("parts that are strings", {"messages": said(["hi"])}, 400),
    ("a part without type", {"messages": said([{"text": "hi"}])}, 400),
    ("a part of unknown type", {"messages": said([{"type": "foo", "text": "hi"}])}, 400),
    ("a part without its text", {"messages": said([{"type": "text"}])}, 400),
    ("a part of another API", {"messages": said([{"type": "input_text", "text": "hi"}])}, 400),
    ("no role", {"messages": [{"content": "hi"}]}, 400),
    ("role a number", {"messages": [{"role": 5, "content": "hi"}]}, 400),
    ("role unknown", {"messages": [{"role": "wizard", "content": "hi"}]}, 200),
    ("messages empty", {"messages": []}, 400),
    ("messages null", {"messages": None}, 400),
    ("messages a string", {"messages": "hi"}, 400),
    ("messages one, in no list", {"messages": HI[0]}, 400),
    ("messages in two lists", {"messages": [HI]}, 400),
    ("the assistant's content null", {"messages": [*HI, {"role": "assistant", "content": None}, *HI]}, 200),
    ("tool calls null", {"messages": [*HI, {"role": "assistant", "content": "x", "tool_calls": None}]}, 200),
    ("more fields in a message", {"messages": said("hi", name="b", cache_control={"type": "ephemeral"})}, 200),
    ("tools empty", {"tools": []}, 400),
    ("n a string", {"n": "2"}, 200),
    ("n null", {"n": None}, 200),
    ("n 0", {"n": 0}, 400),
    ("max_completion_tokens counts", {"max_completion_tokens": "1", "max_tokens": 0}, 200),
    ("min_tokens above max_tokens", {"min_tokens": 5}, 400),
    ("priority above 64 bits", {"priority": 10**20}, 400),
    ("priority as a string", {"priority": "0"}, 200),
    ("stop a number", {"stop": 5}, 400),
    ("user a number", {"user": 5}, 400),
    ("stream_options without stream", {"stream_options": {"include_usage": True}}, 400),
    ("stream_options empty without stream", {"stream_options": {}}, 200),
    ("include_usage as a string", {"stream": True, "stream_options": {"include_usage": "true"}}, 200),
)
COMPLETIONS: tuple[tuple[str, dict[str, Any], int], ...] = (
    ("a list of one", {"prompt": ["hi"]}, 200),
    ("token ids", {"prompt": [5, 6]}, 200),
    ("token ids as floats", {"prompt": [5.0, 6.0]}, 200),
    ("token ids as truth values", {"prompt": [True, False]}, 200),
    ("lists of token ids", {"prompt": [[5, 6], [7]]}, 200),
    ("a string and an id", {"prompt": ["hi", 5]}, 400),
    ("broken ids", {"prompt": [1.5]}, 400),
    ("negative ids", {"prompt": [-1]}, 400),
    ("ids out of all vocabularies", {"prompt": [10**12]}, 400),
    ("empty", {"prompt": ""}, 400),
    ("an empty list", {"prompt": []}, 400),
    ("an empty list in a list", {"prompt": [[]]}, 400),
    ("an empty string in a list", {"prompt": [""]}, 400),
    ("null", {"prompt": None}, 400),
    ("absent", {"prompt": ABSENT}, 400),
    ("a number", {"prompt": 5}, 400),
    ("an object", {"prompt": {"a": 1}}, 400),
    ("too many prompts", {"prompt": ["a"] * 1025}, 400),
)
RESPONSE_INPUTS: tuple[tuple[str, dict[str, Any], int], ...] = (
    ("input empty", {"input": ""}, 200),
    ("input a message without type", {"input": HI}, 200),
    ("input parts", {"input": said([{"type": "input_text", "text": "hi"}])}, 200),
    ("input parts of another API", {"input": said([{"type": "text", "text": "hi"}])}, 400),
    ("input null", {"input": None}, 400),
    ("input absent", {"input": ABSENT}, 400),
    ("input empty list", {"input": []}, 400),
    ("input one message, in no list", {"input": HI[0]}, 400),
    ("input strings", {"input": ["hi"]}, 400),
    ("input without role", {"input": [{"content": "hi"}]}, 400),
    ("input content null", {"input": said(None)}, 400),
    ("input of unknown role", {"input": [{"role": "wizard", "content": "hi"}]}, 400),
    ("input of unknown type", {"input": [{"type": "foo"}]}, 400),
    ("instructions a list", {"instructions": ["be brief"]}, 400),
    ("tools null", {"tools": None}, 400),
    ("tools empty", {"tools": []}, 200),
    ("store as a word", {"store": "no"}, 200),
    ("background null", {"background": None}, 400),
    ("truncation unknown", {"truncation": "x"}, 400),
    ("a previous response nobody knows", {"previous_response_id": "resp_none"}, 404),
    ("metadata with a number", {"metadata": {"a": 5}}, 400),
    ("a prompt template", {"prompt": {"id": "x"}}, 400),
)
MESSAGE_BODIES: tuple[tuple[str, dict[str, Any], int], ...] = (
    ("no max_tokens", {"max_tokens": ABSENT}, 400),
    ("max_tokens null", {"max_tokens": None}, 400),
    ("system blocks", {"system": [{"type": "text", "text": "be", "cache_control": {"type": "ephemeral"}}]}, 200),
    ("system a number", {"system": 5}, 400),
    ("a system message", {"messages": [{"role": "system", "content": "be"}, *HI]}, 200),
    ("a developer's message", {"messages": [{"role": "developer", "content": "be"}, *HI]}, 400),
    ("content null", {"messages": said(None)}, 400),
    ("content empty", {"messages": said("")}, 200),
    ("content without blocks", {"messages": said([])}, 400),
    ("content of strings", {"messages": said(["hi"])}, 400),
    ("a block of unknown type", {"messages": said([{"type": "foo"}])}, 400),
    ("messages empty", {"messages": []}, 400),
    ("stop_sequences a string", {"stop_sequences": "x"}, 400),
    ("metadata a number", {"metadata": 5}, 400),
    ("tools null", {"tools": None}, 200),
)

LENIENT_BODIES = (
    *of_all_apis(),
    *(
        LenientBody(name, path, fields(path, **changed), status)
        for path, rows in (
            (CHAT, CHATS),
            (COMPLETION, COMPLETIONS),
            (RESPONSES, RESPONSE_INPUTS),
            (MESSAGES, MESSAGE_BODIES),
        )
        for name, changed, status in rows
    ),
)
