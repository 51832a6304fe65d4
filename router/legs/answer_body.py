"""The answer to a prefill leg, as far as the decode leg has to know."""

import msgspec
from msgspec import Raw


class AnswerBody(msgspec.Struct, gc=False):
    kv_transfer_params: Raw = Raw(b"")


decode_answer = msgspec.json.Decoder(AnswerBody).decode
