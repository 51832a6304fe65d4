"""A live gateway's journal, what can go wrong while one is written, and what `dualmap replay-journal` says."""

import gzip
import json
import os
import threading
import time
from pathlib import Path

import pytest

from dualmap.router.cli.main import main
from dualmap.router.journal import writer as journal_module
from dualmap.router.journal.format import JournalError
from dualmap.router.journal.replay import JournalReader, replay
from dualmap.router.journal.writer import JournaledScheduler, JournalWriter, path_for
from dualmap.scheduler import InstanceCapacity, Request, Scheduler, SchedulerConfig
from dualmap.scheduler.errors import ContractError
from dualmap.scheduler.events import InstanceJoined, RequestArrived, Tick
from tests.router.conftest import CHAT, STREAM, Conversation, post


def write(path: Path, *, ticks: int = 3, close: bool = True, **options) -> JournalWriter:
    scheduler = Scheduler(SchedulerConfig())
    journal = JournalWriter(path, scheduler.config, **options)
    core = JournaledScheduler(scheduler, journal)
    core.handle(InstanceJoined("a", 1, InstanceCapacity()), 100.0)
    core.handle(RequestArrived(Request("r1", tuple(range(20)), 5000)), 100.1)
    for tick in range(ticks):
        core.handle(Tick(), 101.0 + tick)
    if close:
        journal.close()
    return journal


# Live.


async def hello_stream(conversation: Conversation) -> None:
    await conversation.begin_stream()
    await conversation.send_event("{}")
    await conversation.end_stream()


@pytest.mark.parametrize("name", ["run.jsonl", "run.jsonl.gz"])
async def test_a_live_gateways_journal_gives_the_same_commands(fleet, tmp_path, name, capsys):
    async def never_answer(conversation: Conversation) -> None:
        await conversation.closed_by_gateway()

    path = tmp_path / name
    async with fleet(hello_stream, hello_stream, journal=path) as f:

        def received() -> int:
            return sum(len(instance.received) for instance in f.instances)

        client = await f.client()
        for text in ("x", "y" * 5000, "z"):
            assert (await client.post("/v1/chat/completions", {**STREAM, "user": text})).status == 200
        for instance in f.instances:
            instance.script = never_answer
        leaving = await f.client()
        await leaving.send(post("/v1/chat/completions", CHAT))
        await f.until(lambda: received() == 4)
        leaving.leave()
        await f.until(lambda: not f.gateway.driver.exchanges)
        waiting = await f.client()
        await waiting.send(post("/v1/chat/completions", CHAT))
        await f.until(lambda: received() == 5)
        (exchange,) = f.gateway.driver.exchanges.values()
        failed = int(exchange.running.dispatch.instance_id[1:])
        f.instances[1 - failed].script = hello_stream
        f.instances[failed].stop()
        assert (await waiting.answer()).status == 200
        f.apply(f.member(1 - failed))
        await f.until(lambda: len(f.gateway.scheduler.instances) == 1)
        assert f.gateway.status()["journal"].startswith(f"{path}: ")
    events = [record.event for record in JournalReader(path).records()]
    kinds = {type(event).__name__ for event in events}
    assert kinds >= {"InstanceJoined", "RequestArrived", "RequestFinished", "RequestCancelled", "InstanceLost", "Tick"}
    assert kinds >= {"FirstToken", "RequestFailed"}
    assert main(["replay-journal", str(path)]) == 0
    said = capsys.readouterr()
    assert f"{len(events)} events, " in said.out
    assert "5 requests" in said.out
    assert "the same commands" in said.out
    assert "note" not in said.out


async def test_a_disk_that_hangs_holds_up_no_request(fleet, tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    filler = os.open(tmp_path / "pipe", os.O_WRONLY | os.O_NONBLOCK)
    os.write(filler, b"x" * 2**20)  # as much as it takes; then whoever writes waits for a reader
    os.close(filler)
    monkeypatch.setattr(journal_module, "_create", lambda path: (path, path.open("wb")))
    async with fleet(journal=tmp_path / "pipe") as f:
        client = await f.client()
        await f.until(lambda: f.gateway.pools[""].journal.written_bytes > 0)
        for _ in range(3):
            assert (await client.post("/v1/chat/completions", CHAT)).status == 200
        assert not f.gateway.pools[""].journal._done_bytes
        assert not f.gateway.pools[""].journal.stopped
        os.close(reader)  # the thread's write fails, and it ends
        await f.until(lambda: bool(f.gateway.pools[""].journal.stopped))
        assert (await client.post("/v1/chat/completions", CHAT)).status == 200


def test_a_disk_that_is_too_slow_ends_the_journal_before_it_fills_the_memory(tmp_path, monkeypatch):
    held = threading.Event()
    monkeypatch.setattr(journal_module, "MAX_UNWRITTEN_BYTES", 1000)
    monkeypatch.setattr(JournalWriter, "_write_chunks", lambda self, file: held.wait())
    journal = write(tmp_path / "a.jsonl", ticks=100, close=False)
    assert journal.stopped == "the disk is too slow"
    held.set()
    journal.close()


# Writing.


def test_an_existing_journal_is_kept(tmp_path):
    first, second = write(tmp_path / "a.jsonl", ticks=0), write(tmp_path / "a.jsonl", ticks=2)
    assert [j.path.name for j in (first, second)] == ["a.jsonl", "a.2.jsonl"]
    assert [replay(JournalReader(j.path)).events for j in (first, second)] == [2, 4]


@pytest.mark.parametrize(
    ("name", "expected"),
    [("a.jsonl", "a.g-0.jsonl"), ("a.jsonl.gz", "a.g-0.jsonl.gz"), ("a", "a.g-0"), ("a-1.5.jsonl", "a-1.5.g-0.jsonl")],
)
def test_each_gateway_has_its_own_file(name, expected):
    assert path_for(Path("d") / name, "g-0") == Path("d") / expected


def test_a_full_journal_says_so_and_stays_readable(tmp_path, caplog):
    journal = write(tmp_path / "a.jsonl", ticks=1000, max_bytes=8000)
    assert journal.path.stat().st_size <= 8000
    assert "max_bytes reached" in journal.state
    assert "ends here: max_bytes reached" in caplog.text
    reader = JournalReader(journal.path)
    assert replay(reader).first is None
    assert reader.note == "the journal ends early: max_bytes reached"


def test_a_file_that_cannot_be_made_is_one_line_in_the_log_and_no_error(tmp_path, caplog):
    (tmp_path / "file").touch()
    journal = write(tmp_path / "file" / "a.jsonl")
    assert len(caplog.records) == 1
    assert "cannot write" in caplog.text
    assert "cannot write" in journal.state


def test_a_disk_error_stops_the_journal_and_not_the_scheduler(caplog, monkeypatch):
    full = Path("/dev/full").open("wb")  # noqa: SIM115
    monkeypatch.setattr(journal_module, "_create", lambda path: (path, full))
    journal = write(Path("a.jsonl"), ticks=0)
    assert "No space left on device" in journal.state
    assert len(caplog.records) == 1


def test_an_event_that_json_cannot_hold_stops_the_journal_and_not_the_scheduler(tmp_path, caplog):
    scheduler = Scheduler(SchedulerConfig())
    journal = JournalWriter(tmp_path / "a.jsonl", scheduler.config)
    core = JournaledScheduler(scheduler, journal)
    core.handle(InstanceJoined("a"), 0.0)
    core.handle(RequestArrived(Request("r0", (), 5, tenant=object())), 1.0)  # type: ignore[arg-type]
    assert "RequestArrived cannot be written" in caplog.text
    assert core.handle(RequestArrived(Request("r", (), 5)), 1.0)
    journal.close()
    assert replay(JournalReader(journal.path)).events == 1


def test_an_event_that_the_scheduler_refused_is_recorded_with_its_error(tmp_path):
    scheduler = Scheduler(SchedulerConfig())
    journal = JournalWriter(tmp_path / "a.jsonl", scheduler.config)
    core = JournaledScheduler(scheduler, journal)
    core.handle(InstanceJoined("a"), 0.0)
    core.handle(RequestArrived(Request("r", (), 5)), 1.0)
    with pytest.raises(ContractError):
        core.handle(RequestArrived(Request("r", (), 5)), 2.0)
    journal.close()
    *_, last = JournalReader(journal.path).records()
    assert last.error == "ContractError: request id 'r' is in flight already"
    assert replay(JournalReader(journal.path)).first is None


def test_a_scheduler_with_a_past_has_no_journal(tmp_path):
    scheduler = Scheduler(SchedulerConfig())
    scheduler.handle(InstanceJoined("a"), 0.0)
    with pytest.raises(ValueError, match="told nothing"):
        JournaledScheduler(scheduler, JournalWriter(tmp_path / "a.jsonl", scheduler.config))


def test_a_closed_journal_leaves_no_thread(tmp_path):
    journal = write(tmp_path / "a.jsonl")
    assert journal._thread not in threading.enumerate()
    assert journal.path.read_bytes().endswith(b'{"end":"stopped"}\n')


# Replaying.


def edited(tmp_path, edit) -> Path:
    lines = write(tmp_path / "a.jsonl").path.read_bytes().splitlines(keepends=True)
    edit(lines)
    path = tmp_path / "edited.jsonl"
    path.write_bytes(b"".join(lines))
    return path


def test_a_difference_is_shown_with_its_line_event_and_commands(tmp_path, capsys):
    def edit(lines):
        lines[2] = lines[2].replace(b'"queued_s":0.0', b'"queued_s":0.25')

    path = edited(tmp_path, edit)
    assert main(["replay-journal", str(path)]) == 1
    said = capsys.readouterr().out
    assert "line 3: event 2 gets other commands than recorded" in said
    assert "time      100.1" in said
    assert (
        "event     RequestArrived(request=Request(id='r1', blocks=(0, 1, 2, 3, ... 20 in all), prompt_tokens=5000"
        in said
    )
    assert "expected  Dispatch(request_id='r1', attempt=1, instance_id='a'" in said
    assert "differs   queued_s: expected 0.25, actual 0.0" in said


def test_a_command_that_was_not_given_again_is_shown(tmp_path, capsys):
    def edit(lines):
        lines[3] = (
            b'{"t":101.0,"event":"Tick","commands":[{"command":"FailStream","request_id":"r","cause":"broken"}]}\n'
        )

    assert main(["replay-journal", str(edited(tmp_path, edit))]) == 1
    said = capsys.readouterr().out
    assert "expected  FailStream(request_id='r', cause='broken')" in said
    assert "actual    no commands" in said


@pytest.mark.parametrize(
    ("number", "line", "parts"),
    [
        (0, b'{"journal":"other"}\n', ["line 1", "no journal of DualMap"]),
        (0, b'{"journal":"dualmap","version":9}\n', ["line 1", "version 9"]),
        (0, b'{"journal":"dualmap","version":1,"config":{"ttft_slo_s":0}}\n', ["line 1", "ttft_slo_s must be"]),
        (2, b'{"t":1.0,"event":"Unheard"}\n', ["line 3", "Unheard"]),
        (2, b'{"t":1.0,"event":"Tick","more":1}\n', ["line 3", "more"]),
        (2, b'{"t":"x","event":"Tick"}\n', ["line 3", "$.t"]),
        (2, b"\xff\xfe garbage\n", ["line 3"]),
        (1, b'{"t":1.0,"event":"InstanceJoined","instance_id":"a","capacity":{"weight":0}}\n', ["line 2", "weight"]),
    ],
)
def test_a_malformed_journal_is_one_line_that_names_the_place(tmp_path, capsys, number, line, parts):
    path = edited(tmp_path, lambda lines: lines.__setitem__(number, line))
    assert main(["replay-journal", str(path)]) == 2
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1
    for part in (str(path), *parts):
        assert part in said


def test_a_missing_file_is_named(tmp_path, capsys):
    assert main(["replay-journal", str(tmp_path / "none.jsonl")]) == 2
    assert "none.jsonl: No such file or directory" in capsys.readouterr().err


@pytest.mark.parametrize("gz", [False, True])
def test_a_journal_cut_off_by_a_crash_is_replayed_up_to_there(tmp_path, capsys, gz):
    lines = write(tmp_path / "a.jsonl", ticks=2000).path.read_bytes().splitlines(keepends=True)[:-1]
    whole = b"".join(lines)
    path = tmp_path / ("cut.jsonl.gz" if gz else "cut.jsonl")
    path.write_bytes(gzip.compress(whole)[:-20] if gz else whole[:-5])
    assert main(["replay-journal", str(path)]) == 0
    said = capsys.readouterr().out
    assert "note: " in said
    assert "the same commands" in said
    if not gz:
        assert f"line {len(lines)} is cut off" in said
        assert f"{len(lines) - 2} events" in said


def test_a_journal_whose_writer_was_killed_has_all_but_its_last_second(tmp_path):
    journal = write(tmp_path / "a.jsonl.gz", ticks=10, close=False)
    while journal._done_bytes < journal.written_bytes:
        time.sleep(0.001)
    reader = JournalReader(journal.path)
    assert replay(reader).events >= 11
    assert "killed" in reader.note
    journal.close()


def test_a_cut_header_is_an_error(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'{"journal":"dua')
    with pytest.raises(JournalError, match="line 1"):
        JournalReader(tmp_path / "a.jsonl")


def test_until_stops_after_so_many_events(tmp_path, capsys):
    path = write(tmp_path / "a.jsonl").path
    assert main(["replay-journal", str(path), "--until", "2"]) == 0
    assert "2 events, 1 commands, 1 requests, 0.100 s covered" in capsys.readouterr().out


def test_another_configuration_is_tried_and_its_differences_counted(tmp_path, capsys):
    path = str(write(tmp_path / "a.jsonl").path)
    assert main(["replay-journal", path, "--set", "policy=round_robin", "--set", "ttft_slo_s=3"]) == 0
    said = capsys.readouterr().out
    assert "line 3: event 2 gets other commands" in said
    assert "with policy=round_robin, ttft_slo_s=3: 1 of 5 events get other commands" in said


@pytest.mark.parametrize("setting", ["polcy=x", "policy", "policy=best", "ttft_slo_s=x", "ttft_slo_s=0"])
def test_a_setting_that_cannot_be_is_one_line(tmp_path, capsys, setting):
    path = str(write(tmp_path / "a.jsonl").path)
    assert main(["replay-journal", path, "--set", setting]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_keys_that_came_or_went_since_the_recording_are_noted(tmp_path, capsys):
    def edit(lines):
        header = json.loads(lines[0])
        header["config"]["gone"] = header["config"].pop("suspect_s")
        lines[0] = json.dumps(header).encode() + b"\n"

    assert main(["replay-journal", str(edited(tmp_path, edit))]) == 0
    said = capsys.readouterr().out
    assert "note: the configuration key gone is not known here" in said
    assert "note: the journal does not say suspect_s" in said
