"""/tokenize and /detokenize."""

import msgspec

from dualmap.instances.simulated.apis.call import Call, Reply
from dualmap.instances.simulated.apis.chat import ChatBody, chat_prompt
from dualmap.instances.simulated.apis.completions import is_ids
from dualmap.instances.simulated.lenient_body import read_body
from dualmap.instances.simulated.served import Served
from dualmap.instances.simulated.token_ids import to_ids, to_text
from dualmap.router.http.openai_errors import RequestRefusedError, bad_request


class _TokenizeBody(ChatBody):
    prompt: str | None = None
    return_token_strs: bool | None = False


class _DetokenizeBody(msgspec.Struct):
    tokens: list[int]
    model: str | None = None


def tokenize(call: Call, served: Served) -> Reply:
    """Token ids of a text or of a chat: as a prompt they meet the same cached blocks as the text itself. Raises
    RequestRefusedError as vLLM would answer."""
    body = read_body(_TokenizeBody, call.body)
    served.models.check(body.model)
    if body.messages:
        packed = chat_prompt(body, served).packed
    elif body.prompt is not None:
        packed = body.prompt.encode()
    else:
        raise RequestRefusedError(bad_request("The body must have `prompt` or `messages`."))
    tokens = to_ids(packed)
    strings = [to_text([token]) for token in tokens] if body.return_token_strs else None
    shape = {"count": len(tokens), "max_model_len": served.profile.max_model_len}
    return Reply(msgspec.json.encode(shape | {"tokens": tokens, "token_strs": strings}))


def detokenize(call: Call, served: Served) -> Reply:
    """Raises RequestRefusedError as vLLM would answer."""
    body = read_body(_DetokenizeBody, call.body)
    served.models.check(body.model)
    if not is_ids(body.tokens):
        raise RequestRefusedError(bad_request("`tokens` must be token ids, from 0 to 4294967295.", "tokens"))
    return Reply(msgspec.json.encode({"prompt": to_text(body.tokens)}))
