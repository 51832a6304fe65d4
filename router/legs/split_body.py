"""The body of a request whose prompt another instance may compute than the one that answers."""

import re

import msgspec
from msgspec import Raw

Fields = dict[str, Raw]

# Of the first of several prompts.
_SEVERAL = re.compile(rb'\[\s*["\[]')
_LOOKED_AT = 256  # bytes of a prompt
_AS_IF_ABSENT: dict[str, tuple[bytes, ...]] = {
    "n": (b"1", b"null"),
    "best_of": (b"1", b"null"),
    "echo": (b"false", b"null"),
    "use_beam_search": (b"false", b"null"),
    "prompt_logprobs": (b"null",),
}
_decoder = msgspec.json.Decoder(Fields)


def split_body(body: bytes) -> Fields | None:
    """The fields, each as it is written. None for one that asks for several answers, since the first of them would take
    the computed prompt; for one that asks for something of the prompt, which the answering instance does not compute;
    and for one whose client sees to the legs itself."""
    try:
        fields = _decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    if "kv_transfer_params" in fields:
        return None
    for name, absent in _AS_IF_ABSENT.items():
        if name in fields and bytes(fields[name]) not in absent:
            return None
    prompt = fields.get("prompt")
    if prompt is not None and _SEVERAL.match(memoryview(prompt)[:_LOOKED_AT]):
        return None
    return fields
