"""What instances say of themselves, on its way from their actors over Fleet to the gateways. Each part is optional."""

from dataclasses import KW_ONLY, dataclass

from dualmap.scheduler.events import BlocksRemoved, BlocksStored, CacheCleared

CacheEvent = BlocksStored | BlocksRemoved | CacheCleared


@dataclass(frozen=True, slots=True)
class LoadSample:
    """From the server's /metrics: requests that run and that wait in it, share of its KV pool they hold (0 to 1),
    requests preempted since its start, LoRA adapters of what runs. progress: grows while its engines work."""

    running: int
    waiting: int
    kv_used: float
    _: KW_ONLY
    preemptions: int = 0
    adapters: tuple[str, ...] = ()
    progress: int = 0


@dataclass(frozen=True, slots=True)
class KvEventState:
    """How the server's KV events come in. exact: they name blocks as the gateway does, else they only tell of clears.
    gaps: missed batches; resets: times when what was known had to be thrown away. error: of the last bad batch."""

    exact: bool
    batches: int = 0
    gaps: int = 0
    _: KW_ONLY
    resets: int = 0
    age_s: float | None = None  # of the last batch; None before the first
    error: str = ""


@dataclass(frozen=True, slots=True)
class InstanceSignals:
    """What came in since the actor's last report.

    load: None where there is no other sample than before. load_age_s: since it was taken. cache: what changed in its
    prefix cache, in order; cache_from: changes sent before these; cache_complete: these are all it holds, whatever was
    sent before.
    """

    instance_id: str
    load: LoadSample | None = None
    load_age_s: float = 0.0
    _: KW_ONLY
    kv_events: KvEventState | None = None
    cache: tuple[CacheEvent, ...] = ()
    cache_from: int = 0
    cache_complete: bool = False


@dataclass(frozen=True, slots=True)
class SignalNews:
    """What a gateway has not heard yet. number: what it says next time. signals: the last of each instance that said
    something; their cache fields are empty. cache: changes of all instances, in order."""

    number: int
    signals: tuple[InstanceSignals, ...]
    cache: tuple[CacheEvent, ...]
