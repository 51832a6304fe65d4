"""What vLLM tells of itself: KV events, and /metrics."""

from dualmap.instances.kv_events.format import KvEventError, read_batch, read_message
from dualmap.instances.kv_events.translation import KvTranslation
from dualmap.instances.server.metrics import MetricsReader
from dualmap.scheduler.events import BlocksRemoved, BlocksStored, CacheCleared
from tests.fuzz.target import Target

FRAME_END = b"\xc1"  # msgpack never uses this byte


def check_kv_events(data: bytes) -> None:
    """Batches, each after the end of the one before. What the core hears is what is held."""
    translation = KvTranslation("i", 4, True)
    held: set[int] = set()
    for payload in data.split(FRAME_END):
        try:
            number, batch = read_message([b"topic", payload[:8].ljust(8, b"\0"), payload[8:]])
            events = read_batch(batch)
        except KvEventError:
            continue
        assert 0 <= number < 1 << 64
        for told in translation.apply(events):
            match told:
                case BlocksStored():
                    held.update(told.blocks)
                case BlocksRemoved():
                    held.difference_update(told.blocks)
                case CacheCleared():
                    held.clear()
    again: set[int] = set()
    for told in translation.held():
        match told:
            case BlocksStored():
                again.update(told.blocks)
            case BlocksRemoved():
                again.difference_update(told.blocks)
    assert again == held
    translation.clear()
    assert not len(translation)


KV_EVENTS = Target("kv_events", check_kv_events)


def check_metrics(data: bytes) -> None:
    """Two texts of one server, parted by a zero."""
    reader = MetricsReader()
    for text in data.split(b"\0")[:4]:
        assert reader.read(text) == reader.read(text)


METRICS = Target("metrics", check_metrics)
