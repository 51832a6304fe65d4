"""/v1/audio/transcriptions and /v1/audio/translations: a form with a file of sound in, a text out."""

from collections.abc import Sequence
from email.message import Message
from email.parser import BytesParser
from email.policy import HTTP

import msgspec

from dualmap.instances.simulated.apis.call import Call, Job
from dualmap.instances.simulated.apis.pooling import SilentShape
from dualmap.instances.simulated.chat_prompt import Prompt
from dualmap.instances.simulated.generation import Generation, Sampling, generation_of
from dualmap.instances.simulated.media import read_media
from dualmap.instances.simulated.served import Served
from dualmap.router.http.openai_errors import RequestRefusedError, bad_request

TRANSCRIBED_TOKENS = 64  # at most, with the prompt of the form
AUDIO_TOKENS_PER_S = 25
FORMATS = ("json", "text", "verbose_json")


def transcribe(call: Call, served: Served) -> Job:
    """Raises RequestRefusedError. Not streamed, unlike by vLLM."""
    form = read_form(call)
    model = served.models.check(form.get("model", b"").decode(errors="replace"))
    sound = form.get("file")
    if sound is None:
        raise RequestRefusedError(bad_request("The form must have a `file`.", "file"))
    answer_format = form.get("response_format", b"json").decode(errors="replace")
    if answer_format not in FORMATS:
        message = f"Currently only support response_format: {', '.join(FORMATS)}."
        raise RequestRefusedError(bad_request(message, "response_format"))
    media = read_media("input_audio", {"data": sound.hex()})
    assert media is not None
    tokens = served.media.audio
    generation = generation_of(
        [Prompt(form.get("prompt", b"") + media.packed(tokens), {"audio": tokens})],
        Sampling(given=None, default=TRANSCRIBED_TOKENS),
        model=model,
        root=served.models.root(model),
        profile=served.profile,
        priority=call.priority or 0,
    )
    return Job(generation, _TranscriptionShape(generation, answer_format))


def read_form(call: Call) -> dict[str, bytes]:
    """The parts of a multipart form by their names. Raises RequestRefusedError."""
    head = f"content-type: {call.content_type}\r\n\r\n".encode("latin-1")
    whole: Message = BytesParser(policy=HTTP).parsebytes(head + call.body)
    if whole.get_content_type() != "multipart/form-data" or not whole.is_multipart():
        raise RequestRefusedError(bad_request("The body must be a form: multipart/form-data, with its boundary."))
    form: dict[str, bytes] = {}
    for part in whole.get_payload():
        name = part.get_param("name", header="content-disposition") if isinstance(part, Message) else None
        content = part.get_payload(decode=True) if isinstance(part, Message) else None
        if isinstance(name, str) and isinstance(content, bytes):
            form[name] = content
    return form


class _TranscriptionShape(SilentShape):
    def __init__(self, generation: Generation, answer_format: str) -> None:
        super().__init__("trsc")
        self._generation = generation
        self._format = answer_format
        if answer_format == "text":
            self.content_type = b"text/plain; charset=utf-8"

    def plain(self, produced: Sequence[int], reasons: Sequence[str]) -> bytes:
        text = self._generation.choices[0].text(produced[0]).strip()
        seconds = self._generation.media_tokens["audio"] / AUDIO_TOKENS_PER_S
        match self._format:
            case "text":
                return text.encode()
            case "json":
                usage = {"type": "duration", "seconds": round(seconds)}
                return msgspec.json.encode({"text": text, "usage": usage})
        verbose = {"duration": seconds, "language": "en", "text": text, "segments": [], "words": None}
        return msgspec.json.encode(verbose)
