"""What is read of a vLLM server's /metrics (Prometheus text format; names of vLLM 0.16 to 0.32)."""

import re
from collections.abc import Iterator, Set
from dataclasses import dataclass
from math import isfinite

_SUMMED = (
    "vllm:num_requests_running",
    "vllm:num_requests_waiting",
    "vllm:num_preemptions_total",
    "vllm:prefix_cache_queries_total",
    "vllm:prefix_cache_hits_total",
    "vllm:prompt_tokens_total",
    "vllm:generation_tokens_total",
    "vllm:iteration_tokens_total_count",
)
_OTHERS = (
    "vllm:kv_cache_usage_perc",
    "vllm:engine_sleep_state",
    "vllm:cache_config_info",
    "vllm:lora_requests_info",
    "process_start_time_seconds",
)
_NAMES = (*_SUMMED, *_OTHERS)
_LABEL = re.compile(r'(\w+)="([^"]*)"')
_ENGINE = re.compile(r'[{,]engine="(\d+)"')
_NEAR_BYTES = 2048  # numbers before a line grow a little from one text to the next
_ABSENT = -1
_ENDS_NAME = (b"{", b" ")
LOOKS_AGAIN = 16  # readings, of which one looks everywhere: also for what was not there


@dataclass(frozen=True, slots=True)
class ServerMetrics:
    """Sums over the server's engines, or of one rank. kv_used: share of the KV pool held by requests, 0 to 1, of the
    fullest engine. steps: of the engines since their start. asleep: /sleep was called. started_at: of the server's
    process, Unix seconds, 0 where unknown. kv_tokens: size of the pool, 0 where unknown. Token counts are since the
    start. adapters: LoRA adapters of requests there. max_adapters: how many it has loaded at once, 0 where unknown.
    engines: how many the server has, whichever these are of.
    """

    running: int = 0
    waiting: int = 0
    kv_used: float = 0.0
    preemptions: int = 0
    steps: int = 0
    asleep: bool = False
    started_at: float = 0.0
    kv_tokens: int = 0
    block_tokens: int = 0
    prompt_tokens: int = 0
    generation_tokens: int = 0
    prefix_queries_tokens: int = 0
    prefix_hits_tokens: int = 0
    adapters: tuple[str, ...] = ()
    max_adapters: int = 0
    engines: int = 1


class MetricsReader:
    """Reads the texts of one server, each of some 100 KiB, in which little moves: a metric is looked for where it stood
    before. rank: the engine whose metrics are read; None: all together."""

    def __init__(self, rank: int | None = None) -> None:
        self._rank = rank
        self._places = dict.fromkeys(_NAMES, 0)
        self._read = 0

    def read(self, text: bytes) -> ServerMetrics | None:
        """None if they are not those of a vLLM server, or garbled."""
        self._read += 1
        if self._read % LOOKS_AGAIN == 0:
            self._places = dict.fromkeys(_NAMES, 0)
        try:
            return self._metrics(text)
        except (ValueError, OverflowError):
            return None

    def _metrics(self, text: bytes) -> ServerMetrics | None:
        """Raises ValueError, OverflowError."""
        found = {_engine(labels) for labels, _ in self._lines("vllm:num_requests_running", text)}
        if not found:
            return None
        engines = sorted(engine for engine in found if engine is not None)
        others = frozenset[int]()
        if (rank := self._rank) is not None:  # of a node of several, the first may have another number than 0
            others = frozenset(engines[:rank] + engines[rank + 1 :])
        sums = {name: [value for _, value in self._lines(name, text, others)] for name in _SUMMED}

        def count(name: str) -> int:
            return int(sum(sums[f"vllm:{name}"]))

        kv_tokens = block_tokens = 0
        for labels, _ in self._lines("vllm:cache_config_info", text, others):
            config = dict(_LABEL.findall(labels))
            block_tokens = _whole(config.get("block_size"))
            kv_tokens += _whole(config.get("kv_cache_size_tokens")) or block_tokens * _whole(
                config.get("num_gpu_blocks")
            )
        # One line for each set of adapters there was; the value is when.
        last_set = max(self._lines("vllm:lora_requests_info", text), key=lambda line: line[1], default=("", 0.0))
        adapters = dict(_LABEL.findall(last_set[0]))
        sleeps = self._lines("vllm:engine_sleep_state", text, others)
        return ServerMetrics(
            running=count("num_requests_running"),
            waiting=count("num_requests_waiting"),
            kv_used=max((value for _, value in self._lines("vllm:kv_cache_usage_perc", text, others)), default=0.0),
            preemptions=count("num_preemptions_total"),
            steps=count("iteration_tokens_total_count"),
            asleep=any('sleep_state="awake"' in labels and value == 0.0 for labels, value in sleeps),
            started_at=next((value for _, value in self._lines("process_start_time_seconds", text)), 0.0),
            kv_tokens=kv_tokens,
            block_tokens=block_tokens,
            prompt_tokens=count("prompt_tokens_total"),
            generation_tokens=count("generation_tokens_total"),
            prefix_queries_tokens=count("prefix_cache_queries_total"),
            prefix_hits_tokens=count("prefix_cache_hits_total"),
            adapters=_names(adapters.get("running_lora_adapters", ""), adapters.get("waiting_lora_adapters", "")),
            max_adapters=_whole(adapters.get("max_lora")),
            engines=max(1, len(engines)),
        )

    def _lines(self, name: str, text: bytes, others: Set[int] = frozenset()) -> Iterator[tuple[str, float]]:
        """Labels and value of each but those of other engines; those of a metric stand together."""
        if self._places[name] == _ABSENT:
            return
        wanted = name.encode()
        family = wanted.removesuffix(b"_count")  # a histogram's buckets stand between its counts
        begin = self._places[name] = _find(wanted, text, self._places[name] - _NEAR_BYTES)
        while begin >= 0 and text.startswith(family, begin):
            end = text.find(b"\n", begin)
            line = text[begin : end if end >= 0 else len(text)]
            begin = end + 1 if end >= 0 else _ABSENT
            if line.startswith(wanted) and line[len(wanted) : len(wanted) + 1] in _ENDS_NAME:
                labels, brace, rest = line[len(wanted) :].rpartition(b"}")
                value = float(rest.strip().partition(b" ")[0])  # when it was true may follow
                told = (labels + brace).decode(errors="replace")
                if isfinite(value) and not (others and _engine(told) in others):
                    yield told, value


def read_metrics(text: bytes) -> ServerMetrics | None:
    """Of a server that is asked once."""
    return MetricsReader().read(text)


def _engine(labels: str) -> int | None:
    """None where they name none."""
    found = _ENGINE.search(labels)
    return None if found is None else int(found[1])


def _find(name: bytes, text: bytes, near: int) -> int:
    """Where the first line of the metric begins; _ABSENT where there is none."""
    if text.startswith(name) and text[len(name) : len(name) + 1] in _ENDS_NAME:
        return 0
    for start in (near, 0) if near > 0 else (0,):
        place = start
        while (place := text.find(b"\n" + name, place)) >= 0:
            place += 1
            if text[place + len(name) : place + len(name) + 1] in _ENDS_NAME:
                return place
    return _ABSENT


def _names(*lists: str) -> tuple[str, ...]:
    """Each once. vLLM 0.32 names each adapter as running and as waiting, whatever its requests do."""
    return tuple(dict.fromkeys(name for names in lists for name in names.split(",") if name))


def _whole(text: str | None) -> int:
    """0 where the server says None, as it does for what it does not know."""
    return int(text) if text and text.isdigit() else 0
