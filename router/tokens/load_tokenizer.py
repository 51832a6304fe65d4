"""The tokenizer that the instances use, from the same directory or name."""

import importlib
import os
from typing import Any

from dualmap.router.tokens.simulated_tokenizer import SIMULATED, SimulatedTokenizer


class TokenizerError(Exception):
    """The tokenizer cannot be used; the message says why and what to do."""


def load_tokenizer(path: str) -> Any:
    """A tokenizer of `transformers`, with a chat template.

    path: what the instances are given, with its config.json: the class of the tokenizer, and so its ids, depend on it.
    Or `simulated`, for simulated instances. Raises TokenizerError.
    """
    # One thread is one core: without this, each prompt would wake a pool of threads as large as the machine.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # it misses PyTorch, of which there is no need
    try:
        transformers: Any = importlib.import_module("transformers")
        importlib.import_module("jinja2")
    except ImportError as error:
        raise TokenizerError(f"A tokenizer needs `pip install 'dualmap[tokenizer]'` ({error}).") from None
    if path == SIMULATED:
        return SimulatedTokenizer()
    transformers.logging.set_verbosity_error()  # it warns of each prompt longer than the model's context
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    except Exception as error:  # anything: parsers of many formats, hub client, custom code that is not trusted
        what = str(error).strip().partition("\n")[0]
        raise TokenizerError(f"No tokenizer can be loaded from {path!r}: {type(error).__name__}: {what}") from error
    if not tokenizer.chat_template:
        raise TokenizerError(f"The tokenizer in {path!r} has no chat template; the instances would refuse every chat.")
    return tokenizer
