"""Lines of several processes on one standard output."""

import io
import json
import logging
import subprocess
import sys

import pytest

from dualmap.router.fleet import log_events
from dualmap.router.observe.log_form import LogForm
from dualmap.router.observe.log_setup import ProcessLog
from dualmap.router.observe.standard_output import NAME, ShowLines, as_shown
from tests.conftest import WAIT_S

WRITER = """
import logging, sys
from pathlib import Path
from dualmap.router.observe.log_form import LogForm
from dualmap.router.observe.log_setup import ProcessLog

log = ProcessLog(Path(sys.argv[1]), sys.argv[2], LogForm("json", to="stdout"))
for number in range(200):
    logging.info("x" * 50 * number, extra={"number": number})
log.close()
"""


def test_lines_of_several_processes_stay_whole_however_long_they_are(tmp_path):
    out = io.BytesIO()
    shown = ShowLines(tmp_path, out)
    try:
        writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path), f"w{i}"]) for i in range(3)]
        assert [writer.wait(WAIT_S) for writer in writers] == [0, 0, 0]
    finally:
        shown.close()
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    for i in range(3):
        assert [line["number"] for line in lines if line["process"] == f"w{i}"] == list(range(200))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("to", "in_file", "on_stdout"), [("file", 1, 0), ("stdout", 0, 1), ("both", 1, 1)])
def test_lines_go_where_they_are_wanted(tmp_path, to, in_file, on_stdout):
    out = io.BytesIO()
    shown = ShowLines(tmp_path, out)
    log = ProcessLog(tmp_path, "gateway-0", LogForm("json", to=to))
    logging.getLogger("dualmap.test").info("here")
    log.close()
    shown.close()
    path = tmp_path / "gateway-0.log"
    assert (path.read_text().count("here") if path.exists() else 0) == in_file
    assert out.getvalue().decode().count("here") == on_stdout


@pytest.mark.parametrize("tells_events", [True, False])
def test_what_happens_to_the_fleet_is_shown_by_one_process(tmp_path, tells_events):
    out = io.BytesIO()
    shown = ShowLines(tmp_path, out)
    log = ProcessLog(tmp_path, "fleet", LogForm(to="both"), tells_events)
    log_events.logger.info("a is lost")
    log.close()
    shown.close()
    assert ("a is lost" in out.getvalue().decode()) is tells_events
    assert "a is lost" in (tmp_path / "fleet.log").read_text()


def test_a_process_without_the_pipe_uses_its_own_standard_output(tmp_path):
    command = [sys.executable, "-c", WRITER, str(tmp_path), "far"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S, check=True)
    assert len([json.loads(line) for line in done.stdout.splitlines()]) == 200


def test_who_stops_reading_ends_no_writer(tmp_path):
    out = io.BytesIO()
    out.close()
    shown = ShowLines(tmp_path, out)
    log = ProcessLog(tmp_path, "gateway-0", LogForm(to="stdout"))
    for _ in range(1000):
        logging.getLogger("dualmap.test").info("x" * 1000)
    log.close()
    shown.close()
    assert not (tmp_path / NAME).exists()


@pytest.mark.parametrize(
    ("form", "is_json"), [(LogForm("json", to="stdout"), True), (LogForm("json"), False), (LogForm(to="both"), False)]
)
def test_what_the_command_prints_is_shown_as_lines_of_its_processes(form, is_json, capsys):
    with as_shown(form):
        print("100% ready", flush=True)
        print("\x1b[33m(raylet)\x1b[0m A worker died.\n", end="")  # as Ray does, in a thread of its own
    print("not ours")
    ready, died, rest = capsys.readouterr().out.splitlines()
    assert (json.loads(ready)["message"] if is_json else ready) == "100% ready"
    assert not is_json or json.loads(died)["message"] == "(raylet) A worker died."
    assert rest == "not ours"
