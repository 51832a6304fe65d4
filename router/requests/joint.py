"""Where an answer was cut, as far as its token ids do not say so: whether they end within a character, and what text an
instance had made and kept back, as it might have been the beginning of a stop string. Another instance can tell."""

import re
from collections.abc import Sequence
from typing import Any

import msgspec

from dualmap.router.apis.token_ids import TokenIds
from dualmap.router.http.upstream_pool import UpstreamPool
from dualmap.router.requests.ask_instance import ask_instance

ASK_S = 5.0
TARGET = b"/detokenize"
OK_STATUS = 200
CONTEXT_TOKENS = 16
MOST_DROPPED = 8  # a character is of four tokens at the most; several may come together
CUT = "\ufffd"  # what the bytes of half a character are shown as
# A server shows special tokens where an answer does not. Text that looks like one is not taken for text.
_SPECIAL = re.compile(r"<[|/]?[^<>\s]{1,64}>|\[[A-Z_]{2,32}\]|\u2581")


class _Detokenized(msgspec.Struct, gc=False):
    prompt: str


class Joint(msgspec.Struct, frozen=True, gc=False):
    """dropped_tokens: the answer's last ones, which are part of a character. text: the end of the answer before
    them."""

    dropped_tokens: int
    text: str


async def find_joint(
    pool: UpstreamPool, lines: Sequence[bytes], model: Any, ids: TokenIds, text_chars: int
) -> Joint | None:
    """None where it is not found. lines: of the head of a request. text_chars: how much text is asked for."""
    asking = _Asking(pool, lines, model)
    prompt, answer = ids.prompt.split(b","), ids.seen
    first = max(0, len(answer) - 4 * text_chars - CONTEXT_TOKENS)
    context: str | None = ""
    if text_chars:
        for _ in range(MOST_DROPPED):
            context = await asking.text_of((*prompt, *answer[:first])[-CONTEXT_TOKENS:])
            if context is None or not context.endswith(CUT):
                break
            first = max(0, first - 1)
    before = (*prompt, *answer[:first])[-CONTEXT_TOKENS:]
    for dropped in range(min(MOST_DROPPED, len(answer) - first) + 1):
        whole = await asking.text_of((*before, *answer[first : len(answer) - dropped]))
        if context is None or whole is None or not whole.startswith(context):
            return None
        if not whole.endswith(CUT):
            break
    else:
        return None
    if not text_chars:
        return Joint(dropped, "")
    text = whole[len(context) :]
    if _SPECIAL.search(text[-text_chars:]) or (first and len(text) < text_chars):
        return None
    return Joint(dropped, text)


class _Asking:
    def __init__(self, pool: UpstreamPool, lines: Sequence[bytes], model: Any) -> None:
        self._pool = pool
        self._lines = lines
        self._model = b"" if model is None else b'"model":%b,' % msgspec.json.encode(model)

    async def text_of(self, tokens: Sequence[bytes]) -> str | None:
        """None where the instance does not say."""
        body = b'{%b"tokens":[%b]}' % (self._model, b",".join(tokens))
        told = await ask_instance(self._pool, TARGET, self._lines, body, ASK_S)
        if told.status != OK_STATUS:
            return None
        try:
            return msgspec.json.decode(told.body, type=_Detokenized).prompt
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return None
