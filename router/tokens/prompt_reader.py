"""How an API's body is read: one reader for each API, in a file of its own beside this one."""

from collections.abc import Callable

from dualmap.router.tokens.chat_prompt import ChatRequest
from dualmap.router.tokens.chat_template import ChatTemplate
from dualmap.router.tokens.completion_prompt import CompletionRequest

# The body as the instance gets it, and the template it will use. Raises UnsupportedPromptError for what only the
# instance can turn into tokens, msgspec.MsgspecError for what is no such body.
PromptReader = Callable[[bytes, ChatTemplate], ChatRequest | CompletionRequest]
