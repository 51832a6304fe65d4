"""The answer to a prefill leg, as far as the decode leg has to know."""

from typing import Any

import msgspec
from msgspec import Raw

from dualmap.router.apis.usage_body import UsageBody


class AnswerBody(msgspec.Struct, gc=False):
    usage: UsageBody | None = None
    kv_transfer_params: Raw = Raw(b"")


class _Choice(msgspec.Struct, gc=False):
    finish_reason: Any = None


class _Incomplete(msgspec.Struct, gc=False):
    reason: Any = None


class EndedBody(msgspec.Struct, gc=False):
    """With why the answer ended, in the words of any API."""

    usage: UsageBody | None = None
    choices: list[_Choice] | None = None
    stop_reason: Any = None
    incomplete_details: _Incomplete | None = None

    @property
    def by_length(self) -> bool:
        """It has as many tokens as were asked for, and might have more."""
        if self.choices:
            return bool(self.choices[0].finish_reason == "length")
        if self.incomplete_details is not None:
            return bool(self.incomplete_details.reason == "max_output_tokens")
        return bool(self.stop_reason == "max_tokens")


decode_answer = msgspec.json.Decoder(AnswerBody).decode
decode_ended = msgspec.json.Decoder(EndedBody).decode
