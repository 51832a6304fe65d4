"""Whether another instance may compute a request's prompt than the one that answers."""

import re
from typing import Any

import msgspec
from msgspec import Raw

_SEVERAL = re.compile(rb'\[\s*["\[]')
_LOOKED_AT = 256  # bytes of a prompt


class _Body(msgspec.Struct, gc=False):
    n: Any = None
    best_of: Any = None
    echo: Any = None
    use_beam_search: Any = None
    prompt_logprobs: Any = None
    kv_transfer_params: Any = None
    prompt: Raw = Raw(b"")


_decoder = msgspec.json.Decoder(_Body)


def may_split(body: bytes) -> bool:
    """Not one that asks for several answers, since the first of them would take the computed prompt; nor one that asks
    for something of the prompt, which the answering instance does not compute; nor one whose client sees to the legs
    itself."""
    try:
        fields = _decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return False
    if fields.n not in (None, 1) or fields.best_of not in (None, 1) or fields.use_beam_search:
        return False
    if fields.echo or fields.prompt_logprobs is not None or fields.kv_transfer_params is not None:
        return False
    return _SEVERAL.match(bytes(memoryview(fields.prompt)[:_LOOKED_AT])) is None
