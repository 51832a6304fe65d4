"""The checker of histories finds what was done to a history that had nothing wrong with it."""

import random
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from dualmap.instances.simulated.words import WORDS, text_of
from dualmap.loadtest.experiments.virtual_nemesis import strike
from dualmap.loadtest.histories.answers import stream_faults
from dualmap.loadtest.histories.books import book_faults
from dualmap.loadtest.histories.faults import Rule
from dualmap.loadtest.histories.journals import History, judge
from dualmap.loadtest.histories.keys import KeyRow, key_faults
from dualmap.loadtest.histories.lives import Ended
from dualmap.loadtest.histories.recorder import Recorder
from dualmap.loadtest.histories.rows import Row, row_faults
from dualmap.loadtest.replay.run_file import Outcome
from dualmap.router.journal.format import Record
from dualmap.scheduler import InstanceCapacity, Request, Scheduler, SchedulerConfig
from dualmap.scheduler.attempt import Attempt, AttemptState
from dualmap.scheduler.commands import Abort, Dispatch, FailStream, Reject, RejectReason
from dualmap.scheduler.core import arrival
from dualmap.scheduler.core.books import Books
from dualmap.scheduler.events import (
    FailureCause,
    FirstToken,
    InstanceJoined,
    InstanceLost,
    RequestArrived,
    RequestFailed,
    RequestFinished,
    StreamContinued,
)
from dualmap.scheduler.instance.view import InstanceView
from dualmap.scheduler.recovery import Fate
from dualmap.scheduler.role import Role

CONFIG = SchedulerConfig()


def records() -> list[Record]:
    """Four requests on two instances: one answered, one that runs again, one that is continued, one refused."""
    recorder = Recorder(Scheduler(CONFIG), check_every=1)
    now = iter(range(100, 1000))
    place = {}

    def tell(event: object) -> None:
        for command in recorder.handle(event, float(next(now))):
            if isinstance(command, Dispatch):
                place[command.request_id] = command

    tell(RequestArrived(Request("none", (), 10)))
    for instance_id in ("a", "b"):
        tell(InstanceJoined(instance_id, 1, InstanceCapacity()))
    tell(RequestArrived(Request("whole", (), 10)))
    tell(FirstToken("whole", 1))
    tell(RequestFinished("whole", 1, 7))
    tell(RequestArrived(Request("again", (), 10)))
    tell(RequestFailed("again", 1, 0, cause=FailureCause.BROKEN))
    tell(RequestFinished("again", 2, 8))
    rest = Request("rest", (), 10)
    tell(RequestArrived(rest))
    tell(FirstToken("rest", 1))
    lost = place["rest"].instance_id
    tell(InstanceLost(lost, 1, "died"))
    tell(StreamContinued(replace(rest, prompt_tokens=13, goes_on_after=1, sent_tokens=3), (lost,)))
    tell(FirstToken("rest", 2))
    tell(RequestFinished("rest", 2, 9))
    return recorder.records


ROWS = (
    Row(0, "none", Outcome.SHED),
    Row(1, "whole", Outcome.OK, tokens=7),
    Row(2, "again", Outcome.OK, tokens=8),
    Row(3, "rest", Outcome.OK, tokens=9),
)


def history(given: list[Record], *, closed: bool = True) -> History:
    return History("gateway", CONFIG, given, closed)


def test_a_history_without_faults_is_told_as_it_was() -> None:
    judged = judge(history(records()))
    assert judged.faults == []
    lives = judged.lives.by_id
    assert {i: life.ended for i, life in lives.items()} == {
        "none": Ended.REFUSED,
        "whole": Ended.ANSWERED,
        "again": Ended.ANSWERED,
        "rest": Ended.ANSWERED,
    }
    assert (lives["again"].attempts, lives["rest"].attempts, lives["rest"].continued) == (2, 2, 1)
    assert len(set(lives["rest"].instances)) == 2
    assert row_faults(ROWS, [judged]) == []


def index_of(given: list[Record], kind: type, request_id: str = "", attempt: int = 0) -> int:
    for index, record in enumerate(given):
        event = record.event
        name = getattr(event, "request_id", getattr(getattr(event, "request", None), "id", ""))
        if isinstance(event, kind) and request_id in ("", name) and attempt in (0, getattr(event, "attempt", 0)):
            return index
    raise AssertionError(kind)


def command_of(given: list[Record], kind: type, request_id: str) -> tuple[int, object]:
    return next(
        (index, command)
        for index, record in enumerate(given)
        for command in record.commands
        if isinstance(command, kind) and command.request_id == request_id
    )


def add(given: list[Record], index: int, *commands: object) -> None:
    given[index] = replace(given[index], commands=(*given[index].commands, *commands))


def without_the_end(given: list[Record]) -> None:
    del given[index_of(given, RequestFinished, "whole")]


def arrives_twice(given: list[Record]) -> None:
    index = index_of(given, RequestArrived, "whole")
    given.insert(index + 1, replace(given[index], commands=()))


def refused_after_its_answer(given: list[Record]) -> None:
    add(given, index_of(given, RequestFinished, "whole"), Reject("whole", RejectReason.QUEUE_FULL, 1.0))


def sent_to_two(given: list[Record]) -> None:
    index, sent = command_of(given, Dispatch, "whole")
    add(given, index, replace(sent, attempt=2, instance_id="b" if sent.instance_id == "a" else "a"))


def begun_again(given: list[Record]) -> None:
    index = index_of(given, RequestFailed, "again")
    given[index] = replace(given[index], event=replace(given[index].event, tokens_sent=3))


def sent_to_nobody(given: list[Record]) -> None:
    index, sent = command_of(given, Dispatch, "whole")
    given[index] = replace(given[index], commands=(replace(sent, instance_id="c"),))


def sent_to_those_that_prefill(given: list[Record]) -> None:
    for index, record in enumerate(given):
        if isinstance(record.event, InstanceJoined):
            given[index] = replace(record, event=replace(record.event, role=Role.PREFILL))


def an_attempt_is_left_out(given: list[Record]) -> None:
    index = index_of(given, RequestFailed, "again")
    (sent,) = given[index].commands
    given[index] = replace(given[index], commands=(replace(sent, attempt=3),))


def aborted_elsewhere(given: list[Record]) -> None:
    index, _ = command_of(given, Dispatch, "whole")
    add(given, index, Abort("whole", 1, "c"))


def failed_while_it_runs(given: list[Record]) -> None:
    add(given, index_of(given, FirstToken, "whole"), FailStream("whole", FailureCause.STALLED))


def continued_without_a_failure(given: list[Record]) -> None:
    index = index_of(given, InstanceLost)
    given[index] = replace(given[index], commands=given[index].commands[:1])


def another_place_than_the_core_gives(given: list[Record]) -> None:
    index, sent = command_of(given, Dispatch, "whole")
    given[index] = replace(given[index], commands=(replace(sent, queued_s=5.0),))


def an_error_of_the_core(given: list[Record]) -> None:
    given[-1] = replace(given[-1], commands=(), error="ContractError: something")


TAMPERED: tuple[tuple[Callable[[list[Record]], None], Rule], ...] = (
    (without_the_end, Rule.ENDS_ONCE),
    (arrives_twice, Rule.ENDS_ONCE),
    (refused_after_its_answer, Rule.ENDS_ONCE),
    (sent_to_two, Rule.ONE_AT_A_TIME),
    (begun_again, Rule.ONE_ANSWER),
    (sent_to_nobody, Rule.THERE),
    (sent_to_those_that_prefill, Rule.THERE),
    (an_attempt_is_left_out, Rule.IN_ORDER),
    (aborted_elsewhere, Rule.ONE_AT_A_TIME),
    (failed_while_it_runs, Rule.ONE_AT_A_TIME),
    (continued_without_a_failure, Rule.ONE_ANSWER),
    (another_place_than_the_core_gives, Rule.REPLAYS),
    (an_error_of_the_core, Rule.NO_ERROR),
)


@pytest.mark.parametrize(("tamper", "rule"), TAMPERED, ids=lambda value: getattr(value, "__name__", None))
def test_a_history_that_was_tampered_with_breaks_its_rule(tamper, rule: Rule) -> None:
    given = records()
    tamper(given)
    assert rule in {fault.rule for fault in judge(history(given)).faults}


def test_who_is_in_flight_when_a_gateway_is_killed_is_no_fault() -> None:
    given = records()[: index_of(records(), FirstToken, "whole") + 1]
    judged = judge(history(given, closed=False))
    assert judged.faults == []
    assert judged.lives.by_id["whole"].ended is Ended.OPEN
    assert row_faults([Row(0, "whole", Outcome.BROKEN, "cut off")], [judged]) == []


def test_books_that_keep_something_are_found() -> None:
    core = Scheduler(CONFIG)
    core.handle(InstanceJoined("a", 1, InstanceCapacity()), 1.0)
    core.handle(RequestArrived(Request("r", (), 10)), 1.0)
    del core.attempts["r"]
    assert [fault.rule for fault in book_faults(core)] == [Rule.GIVEN_BACK]


SEEN = (
    (Row(1, "whole", Outcome.BROKEN, "cut off"), Rule.SAME_AS_SEEN),
    (Row(1, "whole", Outcome.SHED), Rule.SAME_AS_SEEN),
    (Row(1, "whole", Outcome.OK, tokens=6), Rule.SAME_COUNT),
    (Row(1, "again", Outcome.OK, tokens=8), Rule.ENDS_ONCE),
    (Row(1, "unheard-of", Outcome.OK, tokens=8), Rule.SAME_AS_SEEN),
    (Row(1, "none", Outcome.OK, tokens=8), Rule.SAME_AS_SEEN),
    (Row(1, "", Outcome.UNFINISHED), Rule.ENDS_ONCE),
)


@pytest.mark.parametrize(("row", "rule"), SEEN)
def test_a_client_that_saw_something_else_than_its_gateway_is_found(row: Row, rule: Rule) -> None:
    judged = [judge(history(records()))]
    rows = [row if other.index == 1 else other for other in ROWS]
    assert rule in {fault.rule for fault in row_faults(rows, judged)}


def test_a_request_that_two_gateways_answered_is_found() -> None:
    judged = [judge(history(records())) for _ in range(2)]
    assert {fault.rule for fault in row_faults(ROWS[1:2], judged)} == {Rule.ENDS_ONCE}


# Streams.

START = 15  # so that a character that two tokens share is among the first tokens


def events(tokens: list[int], ids: tuple[str, ...] = ("x",), roles: int = 1, done: int = 1) -> Iterator[str]:
    answer = b"".join(WORDS[number % len(WORDS)] for number in tokens)
    text = text_of(answer).decode("utf-8", "replace")
    for _ in range(roles):
        yield '{"id":"x","choices":[{"delta":{"role":"assistant","content":""}}]}'
    for place in range(0, len(text), 5):
        yield f'{{"id":"{ids[place % len(ids)]}","choices":[{{"delta":{{"content":"{text[place : place + 5]}"}}}}]}}'
    yield '{"id":"x","choices":[{"delta":{},"finish_reason":"length"}]}'
    yield f'{{"id":"x","choices":[],"usage":{{"completion_tokens":{len(tokens)}}}}}'
    yield from ["[DONE]"] * done


def stream(*given: object, **more: object) -> bytes:
    return "".join(f"data: {event}\n\n" for event in events(*given, **more)).encode()


@pytest.mark.parametrize("start", [0, START, 20, 21, len(WORDS) - 3])
@pytest.mark.parametrize("count", [1, 2, 5, 6, 40])
def test_a_stream_with_each_token_once_has_no_fault(start: int, count: int) -> None:
    assert stream_faults(stream(list(range(start, start + count))), complete=True) == []


def test_a_token_that_is_missing_or_twice_is_found_wherever_it_is() -> None:
    rng = random.Random(1)
    for _ in range(200):
        tokens = list(range(START, START + rng.randint(8, 60)))
        place = rng.randrange(3, len(tokens) - 1)
        for wrong in (tokens[:place] + tokens[place + 1 :], [*tokens[:place], tokens[place], *tokens[place:]]):
            assert stream_faults(stream(wrong), complete=True), (tokens[0], place)
            assert stream_faults(stream(wrong), complete=False), (tokens[0], place)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (stream([1, 2, 3], ids=("x", "y")), "2 ids"),
        (stream([1, 2, 3], roles=2), "2 roles"),
        (stream([1, 2, 3], done=2), "follows [DONE]"),
        (stream([1, 2, 3]).replace(b'"completion_tokens":3', b'"completion_tokens":9'), "about 3 tokens of 9"),
        (stream([1, 2, 3]).replace(b'"finish_reason":"length"', b'"index":0'), "0 finish_reasons"),
    ],
)
def test_a_stream_that_is_not_one_answer_is_found(body: bytes, says: str) -> None:
    (fault,) = stream_faults(body, complete=True)
    assert says in fault


# Keys.


def asked(times: list[float], refused: tuple[int, ...] = (), gateway: str = "g0") -> list[KeyRow]:
    return [KeyRow("k", gateway, at_s, granted=place not in refused) for place, at_s in enumerate(times)]


def test_a_key_may_use_a_minute_at_once_and_what_comes_back_after_it() -> None:
    times = [0.0] * 60 + [float(second) for second in range(1, 30)]
    assert key_faults(asked(times), {"k": 60.0}, gateways=1) == []


def test_a_key_that_is_granted_too_much_is_found() -> None:
    assert key_faults(asked([0.0] * 70), {"k": 60.0}, gateways=1)


def test_a_key_that_is_refused_far_from_its_limit_is_found() -> None:
    assert key_faults(asked([float(second) for second in range(10)], refused=(9,)), {"k": 60.0}, gateways=1)
    assert key_faults(asked([0.0] * 61, refused=(60,)), {"k": 60.0}, gateways=1) == []


def test_a_gateway_that_was_started_again_grants_a_minute_more() -> None:
    rows = asked([0.0] * 60) + asked([1.0] * 50, gateway="g0 again")
    assert key_faults(rows, {"k": 60.0}, gateways=1) == []


# Schedules in virtual time.


@pytest.mark.parametrize("seed", [*range(6), *(pytest.param(seed, marks=pytest.mark.release) for seed in range(6, 20))])
def test_a_schedule_of_blows_leaves_no_fault(seed: int) -> None:
    struck = strike(seed)
    assert not struck.faults, (str(struck.schedule), *map(str, struck.faults[:5]))
    assert struck.ends["ok"] > 50


def test_two_runs_of_a_schedule_are_equal() -> None:
    first, second = (strike(3) for _ in range(2))
    assert (first.ends, first.continued, first.events) == (second.ends, second.continued, second.events)


def runs_again_though_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    def fate(attempt: object, tokens_sent: int, cause: FailureCause, *, last: bool) -> Fate:
        return Fate.GIVE_UP if last else Fate.RETRY

    monkeypatch.setattr(arrival, "decide_fate", fate)


def keeps_a_booking(monkeypatch: pytest.MonkeyPatch) -> None:
    release = InstanceView.release

    def forgetful(view: InstanceView, attempt: Attempt) -> None:
        if int(attempt.request.id) % 7:
            release(view, attempt)

    monkeypatch.setattr(InstanceView, "release", forgetful)


def takes_what_is_late(monkeypatch: pytest.MonkeyPatch) -> None:
    def running(books: Books, request_id: str, number: int) -> Attempt | None:
        attempt = books.attempts.get(request_id)
        return None if attempt is None or attempt.state is AttemptState.WAITING else attempt

    monkeypatch.setattr(Books, "running", running)


DEFECTS = (
    (runs_again_though_begun, Rule.ONE_ANSWER),
    (keeps_a_booking, None),
    (takes_what_is_late, Rule.ONE_AT_A_TIME),
)


@pytest.mark.parametrize(("defect", "rule"), DEFECTS)
def test_a_defect_of_the_core_is_found_by_some_schedule(defect, rule, monkeypatch: pytest.MonkeyPatch) -> None:
    defect(monkeypatch)
    found = {fault.rule for seed in range(3) for fault in strike(seed).faults}
    assert rule in found if rule else found & {Rule.NO_ERROR, Rule.GIVEN_BACK}
