"""`python -m dualmap.loadtest.histories`: journals and a run file, judged from the command line."""

from pathlib import Path

from dualmap.loadtest.histories.__main__ import main
from dualmap.loadtest.replay.run_file import Outcome, RequestRow, write_row
from dualmap.router.journal.writer import JournaledScheduler, JournalWriter
from dualmap.scheduler import InstanceCapacity, Request, Scheduler, SchedulerConfig
from dualmap.scheduler.events import InstanceJoined, RequestArrived, RequestFinished
from tests.loadtest.made import run_header


def journal(path: Path) -> Path:
    config = SchedulerConfig()
    writer = JournalWriter(path, config)
    core = JournaledScheduler(Scheduler(config), writer)
    core.handle(InstanceJoined("a", 1, InstanceCapacity()), 1.0)
    core.handle(RequestArrived(Request("r1", (), 10)), 2.0)
    core.handle(RequestFinished("r1", 1, 5), 3.0)
    writer.close()
    return path


def rows(path: Path, tokens: int) -> Path:
    with path.open("wb") as file:
        write_row(file, run_header(label="run", requests=1))
        write_row(
            file, RequestRow(index=0, outcome=Outcome.OK, scheduled_s=0.0, request_id="r1", completion_tokens=tokens)
        )
    return path


def test_a_run_without_faults_ends_with_0(tmp_path: Path, capsys) -> None:
    assert main([str(journal(tmp_path / "j.jsonl")), "--run", str(rows(tmp_path / "run.jsonl", 5))]) == 0
    assert capsys.readouterr().out == "j.jsonl: 1 answered\n0 faults\n"


def test_each_fault_is_a_line_that_names_rule_and_request(tmp_path: Path, capsys) -> None:
    assert main([str(journal(tmp_path / "j.jsonl")), "--run", str(rows(tmp_path / "run.jsonl", 6))]) == 1
    line = "clients: [same count]: r1: has 6 tokens, and [5] for its gateway"
    assert line in capsys.readouterr().out.splitlines()


def test_a_journal_of_a_killed_gateway_is_read_as_far_as_it_goes(tmp_path: Path, capsys) -> None:
    path = journal(tmp_path / "j.jsonl")
    path.write_bytes(path.read_bytes()[:-40])
    assert main([str(path)]) == 0
    assert capsys.readouterr().out.startswith("j.jsonl: 1 open; it ends early\n")


def test_what_is_no_journal_is_named(tmp_path: Path, capsys) -> None:
    path = tmp_path / "other.jsonl"
    path.write_text("{}\n")
    assert main([str(path)]) == 2
    assert str(path) in capsys.readouterr().err
