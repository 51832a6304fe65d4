"""What a gateway remembers of what happened, and what it logs and counts of that."""

import json
import logging

from dualmap.router.observe.event_record import EventRecord
from dualmap.router.observe.log_lines import ConsoleFormatter, JsonFormatter
from dualmap.scheduler.fleet.event_board import MOST_EVENTS, EventNews
from dualmap.scheduler.fleet.fleet_event import EventKind, FleetEvent


def lost(number: int = 1, **fields: int) -> FleetEvent:
    return FleetEvent(
        at=float(number),
        kind=EventKind.INSTANCE_LOST,
        pool="code",
        instance_id="a",
        reason="connection refused",
        fields=tuple({"since": number, "continued": 1, "run_elsewhere": 2, "failed": 0, **fields}.items()),
    )


def slow(number: int) -> FleetEvent:
    return FleetEvent(at=float(number), kind=EventKind.INSTANCE_SLOW, instance_id="a", gateway="g")


def test_what_was_seen_here_is_counted_once_though_fleet_tells_it_too(caplog):
    caplog.set_level(logging.INFO)
    record = EventRecord()
    record.hear(EventNews(1, ()))
    record.tell(slow(1))
    assert record.take_news() == (slow(1),)
    assert record.take_news() == ()
    record.hear(EventNews(3, (slow(1), lost(2))))
    assert [event.kind for event in record.all()] == [EventKind.INSTANCE_SLOW, EventKind.INSTANCE_LOST]
    assert (record.counts[EventKind.INSTANCE_SLOW], record.counts[EventKind.INSTANCE_LOST]) == (1, 1)
    assert len(caplog.records) == 2


def test_what_happened_before_this_gateway_was_there_is_shown_and_neither_counted_nor_logged(caplog):
    caplog.set_level(logging.INFO)
    record = EventRecord()
    record.hear(EventNews(5, tuple(map(lost, range(5)))))
    assert len(record.all()) == 5
    assert not record.counts[EventKind.INSTANCE_LOST]
    assert not caplog.records


def test_the_last_ones_are_kept_in_the_order_in_which_they_happened():
    record = EventRecord()
    record.hear(EventNews(1, tuple(map(slow, range(300, 0, -1)))))
    kept = [event.at for event in record.all()]
    assert kept == sorted(kept)
    assert len(kept) == MOST_EVENTS


def test_a_page_is_sent_them_only_when_there_is_something_new():
    record = EventRecord()
    first = record.since("")
    assert first["events"] == []
    assert "events" not in record.since(first["events_version"])
    record.tell(lost())
    (shown,) = record.since(first["events_version"])["events"]
    assert shown == {
        "at": 1.0,
        "event": "instance_lost",
        "pool": "code",
        "instance": "a",
        "gateway": "",
        "reason": "connection refused",
        "since": 1,
        "continued": 1,
        "run_elsewhere": 2,
        "failed": 0,
        "said": "a is lost: connection refused; it carried 3 requests: 1 continued, 2 run elsewhere, 0 failed",
    }
    assert EventRecord().since(first["events_version"])["events_version"] != first["events_version"]


def test_a_line_of_the_log_has_a_name_and_fields_that_stay_as_they_are(caplog):
    caplog.set_level(logging.INFO)
    record = EventRecord()
    record.tell(lost())
    (line,) = caplog.records
    logged = json.loads(JsonFormatter("gateway-0").format(line))
    said = "a is lost: connection refused; it carried 3 requests: 1 continued, 2 run elsewhere, 0 failed"
    assert (logged["level"], logged["message"], logged["event"]) == ("warning", said, "instance_lost")
    assert (logged["instance"], logged["pool"], logged["reason"]) == ("a", "code", "connection refused")
    assert (logged["since"], logged["continued"], logged["run_elsewhere"], logged["failed"]) == (1, 1, 2, 0)
    assert "gateway" not in logged
    shown = ConsoleFormatter("gateway-0").format(line)
    assert f"WARNING gateway-0 {said}" in shown
    assert " event=instance_lost " in shown
