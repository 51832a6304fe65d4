"""Chats and completions that are made again: see replayed.py."""

from typing import Any

import msgspec

from dualmap.router.apis.chunk_stream import DONE
from dualmap.router.apis.replayed import DiffersError, Texts
from dualmap.router.apis.stream_event import read_event

_ABOUT = ("id", "created")  # of the first answer


class ReplayedChunks:
    """See Replayed. Texts are known by choice, and there by field: content, reasoning, name and arguments of a call."""

    def __init__(self) -> None:
        self.is_over = False
        self._about: dict[str, Any] = {}
        self._texts = Texts()
        self._roles: set[int] = set()
        self._calls: set[tuple[int, int]] = set()
        self._finished: set[int] = set()
        self._has_usage = False
        self._has_end = False
        self._sent_tokens = 0

    def go_on_after(self, sent_tokens: int) -> None:
        """The second answer is only the rest of the first. sent_tokens: of the first, which are part of the second
        one's prompt."""
        self._texts = Texts()
        self._sent_tokens = sent_tokens

    def note(self, event: bytes) -> None:
        if event == DONE:
            self._has_end = True
            return
        chunk = _read(event)
        self._about = {name: chunk[name] for name in _ABOUT if name in chunk}
        self._has_usage |= not chunk["choices"]
        for choice in chunk["choices"]:
            index = choice["index"]
            for field, text in _texts(choice):
                self._texts.note(index, field, text)
            delta = choice.get("delta", {})
            if "role" in delta:
                self._roles.add(index)
            self._calls.update((index, call["index"]) for call in delta.get("tool_calls") or ())
            if choice.get("finish_reason") is not None:
                self._finished.add(index)

    def show(self, event: bytes) -> bytes:
        if event == DONE:
            self.is_over = True
            return b"" if self._has_end else event
        chunk = _read(event)
        choices = chunk["choices"]
        chunk["choices"] = shown = [choice for choice in choices if self._keep_rest(choice)]
        if not (shown if choices else not self._has_usage):
            return b""
        if self._sent_tokens and (usage := chunk.get("usage")):
            chunk["usage"] = {
                "prompt_tokens": usage["prompt_tokens"] - self._sent_tokens,
                "total_tokens": usage["total_tokens"],
                "completion_tokens": usage["completion_tokens"] + self._sent_tokens,
            }
        return b"data: %b\n\n" % msgspec.json.encode(chunk | self._about)

    def _keep_rest(self, choice: dict[str, Any]) -> bool:
        """Take from the choice what the client has; returns whether anything is left. Raises DiffersError."""
        index = choice["index"]
        if index in self._finished:
            return False
        delta = choice.get("delta")
        is_new = self._keep_rest_of_texts(choice if delta is None else delta, index, choice)
        if delta is not None:
            if "role" in delta and index in self._roles:
                del delta["role"]
            is_new |= "role" in delta
            if delta.get("tool_calls"):
                calls = [call for call in delta["tool_calls"] if self._keep_rest_of_call(call, index, choice)]
                delta.pop("tool_calls")
                if calls:
                    delta["tool_calls"] = calls
                    is_new = True
        if choice.get("finish_reason") is not None:
            self._texts.end(index)
            is_new = True
        return is_new

    def _keep_rest_of_texts(self, fields: dict[str, Any], index: int, choice: dict[str, Any]) -> bool:
        is_new = False
        for name in _TEXTS:
            if text := fields.get(name):
                fields[name] = rest = self._rest(index, name, text, choice)
                is_new |= bool(rest)
        return is_new

    def _keep_rest_of_call(self, call: dict[str, Any], index: int, choice: dict[str, Any]) -> bool:
        number = call["index"]
        function = call.get("function") or {}
        is_known = (index, number) in self._calls
        is_new = not is_known
        for name in _CALL_TEXTS:
            if text := function.get(name):
                function[name] = rest = self._rest(index, (number, name), text, choice)
                is_new |= bool(rest)
        if is_known:
            for name in ("id", "type"):
                call.pop(name, None)
            if not function.get("name"):
                function.pop("name", None)
        return is_new

    def _rest(self, index: int, place: Any, text: str, choice: dict[str, Any]) -> str:
        rest = self._texts.rest(index, place, text)
        if rest and rest != text and (choice.get("logprobs") or choice.get("token_ids")):
            raise DiffersError  # those of a part of it are not known
        return rest


_TEXTS = ("text", "content", "reasoning", "reasoning_content", "refusal")
_CALL_TEXTS = ("name", "arguments")


def _texts(choice: dict[str, Any]) -> list[tuple[Any, str]]:
    """With the place of each, in their order."""
    delta = choice.get("delta", choice)
    texts: list[tuple[Any, str]] = [(name, delta[name]) for name in _TEXTS if delta.get(name)]
    for call in delta.get("tool_calls") or ():
        function = call.get("function") or {}
        texts += [((call["index"], name), function[name]) for name in _CALL_TEXTS if function.get(name)]
    return texts


def _read(event: bytes) -> dict[str, Any]:
    """Raises ValueError."""
    try:
        chunk: dict[str, Any] = msgspec.json.decode(read_event(event)[1])
        choices = chunk["choices"]
    except (msgspec.MsgspecError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise ValueError from error
    if not isinstance(choices, list):
        raise ValueError
    return chunk
