"""One streamed chat or completion as its client got it, read whole: is it one answer, with every token once?

Tokens are those of simulated instances, each of which tells its number (instances/simulated/words.py).
"""

from collections.abc import Iterator
from typing import Any

import msgspec

from dualmap.instances.simulated.media import TOKEN_BYTES
from dualmap.instances.simulated.words import WORDS, text_of

_DONE = "[DONE]"
_SHOWN = 24  # characters around a break


def stream_faults(body: bytes, *, complete: bool) -> list[str]:
    """What is wrong with it; complete: it ended as a whole answer, else only what came is looked at."""
    ids: set[str] = set()
    roles = done = 0
    finish_reasons: list[str] = []
    text: list[str] = []
    completion_tokens: int | None = None
    found: list[str] = []
    for data in _events(body):
        if done:
            found.append(f"something follows [DONE]: {data[:_SHOWN]}")
            break
        if data == _DONE:
            done += 1
            continue
        event: Any = msgspec.json.decode(data)
        if "error" in event:
            continue
        ids.add(event.get("id", ""))
        usage = event.get("usage") or {}
        completion_tokens = usage.get("completion_tokens", completion_tokens)
        for choice in event.get("choices", ()):
            delta = choice.get("delta") or {}
            roles += "role" in delta
            if finish_reasons and (delta.get("content") or choice.get("text")):
                found.append("text follows the finish_reason")
            text.append(delta.get("content") or choice.get("text") or "")
            if choice.get("finish_reason"):
                finish_reasons.append(choice["finish_reason"])
    if len(ids) > 1:
        found.append(f"it has {len(ids)} ids: {', '.join(sorted(ids))}")
    if roles > 1:
        found.append(f"it has {roles} roles")
    if complete and len(finish_reasons) != 1:
        found.append(f"it has {len(finish_reasons)} finish_reasons")
    fault = text_fault("".join(text), completion_tokens if complete else None)
    return [*found, fault] if fault else found


def text_fault(text: str, tokens: int | None) -> str:
    """Where the text is not that of consecutive tokens, or not of so many; empty where nothing is wrong. tokens: None
    where they are not known."""
    given = text.encode()
    if not given:
        return f"it has {tokens} tokens and no text" if tokens and tokens > 1 else ""
    made = len(given) // TOKEN_BYTES + 2 if tokens is None else tokens
    starts = [place for place in range(len(WORDS)) if _from(place, 3).startswith(given[: 2 * TOKEN_BYTES])]
    if not starts:
        return f"its first token is none: {text[:_SHOWN]!r}"
    wanted = [_from(start, made) for start in starts]  # two, where an answer begins within a character
    if given in wanted or (tokens is None and any(one.startswith(given) for one in wanted)):
        return ""
    due, same = max(((one, _same(given, one)) for one in wanted), key=lambda pair: pair[1])
    if same in (len(due), len(given)):
        return f"it has about {len(given) // TOKEN_BYTES} tokens of {made}"
    return f"at token {same // TOKEN_BYTES + 1} it breaks: {_shown(given, same)!r} where {_shown(due, same)!r} was due"


def _same(given: bytes, due: bytes) -> int:
    """Bytes that are alike, from the beginning."""
    return next((i for i, (a, b) in enumerate(zip(given, due, strict=False)) if a != b), min(len(given), len(due)))


def _from(number: int, tokens: int) -> bytes:
    return text_of(b"".join(WORDS[(number + place) % len(WORDS)] for place in range(tokens)))


def _shown(text: bytes, at: int) -> str:
    return text[at : at + _SHOWN].decode("utf-8", "replace")


def _events(body: bytes) -> Iterator[str]:
    for line in body.replace(b"\r\n", b"\n").split(b"\n"):
        if line.startswith(b"data:"):
            yield line[5:].strip().decode()
