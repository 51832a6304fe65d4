"""What a vLLM server says of itself before it is measured."""

from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import urlsplit

import msgspec

from dualmap.instances.calibrate.stream import CalibrateError
from dualmap.instances.server.metrics import ServerMetrics, read_metrics
from dualmap.instances.server.server_client import get_once
from dualmap.scheduler.fleet.endpoint import Endpoint

TIMEOUT_S = 10.0

T = TypeVar("T")


class _Card(msgspec.Struct):
    id: str
    max_model_len: int | None = None


class _Models(msgspec.Struct):
    data: list[_Card] = []


class _Version(msgspec.Struct):
    version: str = "unknown"


@dataclass(frozen=True, slots=True)
class CalibrateTarget:
    """Sizes in tokens, as the server told them."""

    url: str
    host: str
    port: int
    model: str
    version: str
    max_model_len: int
    block_size: int
    kv_tokens: int

    @property
    def longest_tokens(self) -> int:
        """Prompt and answer of one request together."""
        return min(self.max_model_len, self.kv_tokens)


async def ask_target(url: str, model: str | None) -> CalibrateTarget:
    """model: None for the only one there is. Raises CalibrateError."""
    host, port = _address(url)
    base = str(Endpoint(host, port))
    metrics = await idle_metrics(base)
    card = _card(_decode(await _get(base, "/v1/models"), _Models, f"{base}/v1/models").data, model, base)
    if card.max_model_len is None:
        raise CalibrateError(f"{base}/v1/models does not tell max_model_len: not a vLLM server?")
    if not metrics.kv_tokens:
        raise CalibrateError(f"{base}/metrics does not tell the size of the KV cache (vllm:cache_config_info)")
    version = _decode(await _get(base, "/version"), _Version, f"{base}/version").version
    return CalibrateTarget(
        base, host, port, card.id, version, card.max_model_len, metrics.block_tokens, metrics.kv_tokens
    )


async def idle_metrics(base: str) -> ServerMetrics:
    """Raises CalibrateError while requests are there."""
    metrics = read_metrics(await _get(base, "/metrics"))
    if metrics is None:
        raise CalibrateError(f"{base}/metrics has no metrics of vLLM: this works with vLLM servers only")
    if metrics.running or metrics.waiting:
        raise CalibrateError(
            f"{base} is busy: {metrics.running} requests run and {metrics.waiting} wait; a server can be measured only"
            " while nobody else uses it"
        )
    return metrics


def _address(url: str) -> tuple[str, int]:
    try:
        parts = urlsplit(url)
        port = parts.port or 80
    except ValueError:
        raise CalibrateError(f"--url must be http://HOST:PORT, not {url!r}") from None
    if parts.scheme != "http" or not parts.hostname or parts.path.strip("/") not in ("", "v1"):
        raise CalibrateError(f"--url must be http://HOST:PORT, not {url!r}")
    return parts.hostname, port


async def _get(base: str, path: str) -> bytes:
    body = await get_once(Endpoint(*_address(base)), path, TIMEOUT_S)
    if body is None:
        raise CalibrateError(f"{base}{path} gives no answer: is a vLLM server there?")
    return body


def _decode(body: bytes, kind: type[T], url: str) -> T:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise CalibrateError(f"{url} is not as vLLM answers: {error}") from None


def _card(cards: list[_Card], model: str | None, base: str) -> _Card:
    names = ", ".join(card.id for card in cards) or "none"
    if model is None and len(cards) != 1:
        raise CalibrateError(f"--model is needed: {base} has {names}")
    for card in cards:
        if model in (None, card.id):
            return card
    raise CalibrateError(f"{base} has no model {model!r}; it has {names}")
