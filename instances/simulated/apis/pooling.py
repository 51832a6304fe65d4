"""APIs that compute prompts and generate nothing: /v1/embeddings, /pooling, /classify, /score and /rerank.

vLLM serves each with a model made for it; the simulated server has all, and draws what they answer from the hash of the
texts. In the engine they cost what their prompts cost.
"""

import base64
import time
import uuid
from array import array
from collections.abc import Callable, Sequence
from operator import itemgetter
from random import Random
from typing import Any

import msgspec

from dualmap.instances.simulated.apis.call import Call, Job
from dualmap.instances.simulated.apis.completions import read_prompts
from dualmap.instances.simulated.apis.openai_body import Message
from dualmap.instances.simulated.apis.openai_shape import usage_of
from dualmap.instances.simulated.chat_prompt import Prompt, render_chat
from dualmap.instances.simulated.generation import Generation, Sampling, generation_of
from dualmap.instances.simulated.lenient_body import read_body
from dualmap.instances.simulated.served import Served
from dualmap.router.http.openai_errors import RequestRefusedError, bad_request

DEFAULT_DIMENSIONS, MOST_DIMENSIONS = 64, 8192
CLASSES = ("negative", "positive")
ONE_TOKEN = Sampling(given=1)  # a prompt that has its first token is computed


class _PoolingBody(msgspec.Struct):
    model: str | None = None
    priority: int = 0


class _InputBody(_PoolingBody):
    input: str | list[Any] | None = None
    messages: list[Message] | None = None
    dimensions: int | None = None
    encoding_format: str = "float"

    def prompts(self, served: Served) -> list[Prompt]:
        """Raises RequestRefusedError."""
        if self.messages:
            messages = [message.read() for message in self.messages]
            return [render_chat(messages, (), served.media, add_generation_prompt=False)]
        return [Prompt(packed) for packed in read_prompts(self.input)]


class _ScoreBody(_PoolingBody):
    """Pairs have one of four names, as with vLLM."""

    text_1: str | list[str] | None = None
    text_2: str | list[str] | None = None
    queries: str | list[str] | None = None
    documents: str | list[str] | None = None
    items: str | list[str] | None = None
    data_1: str | list[str] | None = None
    data_2: str | list[str] | None = None


class _RerankBody(_PoolingBody, kw_only=True):
    query: str
    documents: str | list[str]
    top_n: int = 0


def embed(call: Call, served: Served) -> Job:
    """Raises RequestRefusedError."""
    body = read_body(_InputBody, call.body)
    dimensions = DEFAULT_DIMENSIONS if body.dimensions is None else body.dimensions
    if not 1 <= dimensions <= MOST_DIMENSIONS:
        raise RequestRefusedError(bad_request(f"`dimensions` must be from 1 to {MOST_DIMENSIONS}.", "dimensions"))
    if body.encoding_format not in ("float", "base64"):
        raise RequestRefusedError(bad_request("`encoding_format` must be 'float' or 'base64'.", "encoding_format"))
    in_base64 = body.encoding_format == "base64"
    return _job(
        call,
        served,
        body,
        body.prompts(served),
        "embd",
        lambda generation: {
            "data": [
                {"index": index, "object": "embedding", "embedding": _vector(random, dimensions, in_base64=in_base64)}
                for index, random in enumerate(_randoms(generation))
            ]
        },
    )


def pool(call: Call, served: Served) -> Job:
    """Raises RequestRefusedError."""
    body = read_body(_InputBody, call.body)
    return _job(
        call,
        served,
        body,
        body.prompts(served),
        "pool",
        lambda generation: {
            "data": [
                {"index": index, "object": "pooling", "data": _vector(random, DEFAULT_DIMENSIONS, in_base64=False)}
                for index, random in enumerate(_randoms(generation))
            ]
        },
    )


def classify(call: Call, served: Served) -> Job:
    """Raises RequestRefusedError."""
    body = read_body(_InputBody, call.body)
    return _job(
        call,
        served,
        body,
        body.prompts(served),
        "classify",
        lambda generation: {
            "data": [_class(index, random.random()) for index, random in enumerate(_randoms(generation))]
        },
    )


def score(call: Call, served: Served) -> Job:
    """Raises RequestRefusedError."""
    body = read_body(_ScoreBody, call.body)
    firsts = _texts(body.text_1 or body.queries or body.data_1)
    seconds = _texts(body.text_2 or body.documents or body.items or body.data_2)
    if not firsts or not seconds or len(firsts) not in (1, len(seconds)):
        raise RequestRefusedError(
            bad_request("`text_1` must be one text, or as many as `text_2`, which has at least one.")
        )
    pairs = zip(firsts * (len(seconds) // len(firsts)), seconds, strict=True)
    return _job(
        call,
        served,
        body,
        [_pair(*pair) for pair in pairs],
        "score",
        lambda generation: {
            "data": [
                {"index": index, "object": "score", "score": random.random()}
                for index, random in enumerate(_randoms(generation))
            ]
        },
    )


def rerank(call: Call, served: Served) -> Job:
    """Raises RequestRefusedError."""
    body = read_body(_RerankBody, call.body)
    documents = _texts(body.documents)
    if not documents:
        raise RequestRefusedError(bad_request("`documents` must not be empty.", "documents"))

    def results(generation: Generation) -> dict[str, Any]:
        ranked = [
            {"index": index, "document": {"text": text, "multi_modal": None}, "relevance_score": random.random()}
            for index, (text, random) in enumerate(zip(documents, _randoms(generation), strict=True))
        ]
        ranked.sort(key=itemgetter("relevance_score"), reverse=True)
        return {"results": ranked[: body.top_n] if body.top_n > 0 else ranked}

    return _job(call, served, body, [_pair(body.query, document) for document in documents], "rerank", results)


def _job(
    call: Call,
    served: Served,
    body: _PoolingBody,
    prompts: Sequence[Prompt],
    prefix: str,
    results: Callable[[Generation], dict[str, Any]],
) -> Job:
    """results: the fields of the answer that hold them."""
    model = served.models.check(body.model)
    priority = body.priority if call.priority is None else call.priority
    root = served.models.root(model)
    generation = generation_of(prompts, ONE_TOKEN, model=model, root=root, profile=served.profile, priority=priority)
    return Job(generation, _PoolingShape(generation, prefix, results))


class SilentShape:
    """Of answers that are never streamed."""

    content_type = b"application/json"

    def __init__(self, prefix: str) -> None:
        self.id = f"{prefix}-{uuid.uuid4().hex}"

    def opening(self) -> bytes:
        return b""

    def first(self, index: int) -> bytes:
        return b""

    def token(self, index: int, text: bytes, produced: Sequence[int]) -> bytes:
        return b""

    def last(self, index: int, text: bytes, produced: Sequence[int], reason: str) -> bytes:
        return b""

    def ending(self, produced: Sequence[int], reasons: Sequence[str]) -> bytes:
        return b""


class _PoolingShape(SilentShape):
    def __init__(self, generation: Generation, prefix: str, results: Callable[[Generation], dict[str, Any]]) -> None:
        super().__init__(prefix)
        self._generation = generation
        self._results = results

    def plain(self, produced: Sequence[int], reasons: Sequence[str]) -> bytes:
        about = {"id": self.id, "object": "list", "created": int(time.time()), "model": self._generation.model}
        return msgspec.json.encode(about | self._results(self._generation) | {"usage": usage_of(self._generation, 0)})


def _texts(texts: str | list[str] | None) -> list[str]:
    return [texts] if isinstance(texts, str) else texts or []


def _pair(first: str, second: str) -> Prompt:
    """Separated as in a cross-encoder's prompt. Not empty even where both are."""
    return Prompt(f"{first}</s></s>{second}".encode())


def _randoms(generation: Generation) -> list[Random]:
    """One for each prompt: equal prompts have equal ones."""
    return [Random(f"{choice.answer!r} {choice.blocks[-1:]}") for choice in generation.choices]


def _vector(random: Random, dimensions: int, *, in_base64: bool) -> list[float] | str:
    """Of length 1, in the float32 that vLLM sends."""
    values = [random.gauss(0, 1) for _ in range(dimensions)]
    length = sum(value * value for value in values) ** 0.5
    vector = array("f", (value / length for value in values))
    return base64.b64encode(vector.tobytes()).decode() if in_base64 else vector.tolist()


def _class(index: int, positive: float) -> dict[str, Any]:
    probs = [1 - positive, positive]
    return {"index": index, "label": CLASSES[positive > 0.5], "probs": probs, "num_classes": len(CLASSES)}
