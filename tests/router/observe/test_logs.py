"""Log lines: what they look like, and that none holds up who writes it."""

import json
import logging
import logging.handlers
import threading
from pathlib import Path

import pytest

from dualmap.router.observe import log_setup
from dualmap.router.observe.log_form import LogForm
from dualmap.router.observe.log_setup import ProcessLog
from tests.conftest import WAIT_S

logger = logging.getLogger("dualmap.test")


def written(folder: Path, style: str, level: str = "info") -> list[str]:
    log = ProcessLog(folder, "gateway-0", LogForm(style, level))
    try:
        logger.debug("of no interest")
        logger.info("API keys read again: %d", 3)
        try:
            raise ValueError("broken\nin two")
        except ValueError:
            logger.exception("it goes on", extra={"instance": "a", "tokens": 5})
    finally:
        log.close()
    return (folder / "gateway-0.log").read_text().splitlines()


def test_json_lines_are_objects_with_the_same_fields_first(tmp_path):
    first, second = map(json.loads, written(tmp_path / "logs", "json"))
    assert list(first) == ["ts", "level", "logger", "process", "message"]
    assert first["ts"].endswith("Z")
    assert (first["level"], first["process"], first["message"]) == ("info", "gateway-0", "API keys read again: 3")
    assert (second["level"], second["instance"], second["tokens"]) == ("error", "a", 5)
    assert "ValueError: broken\nin two" in second["stack"]


def test_console_lines_are_for_people(tmp_path):
    first, second, *stack = written(tmp_path, "console")
    assert first.endswith("INFO    gateway-0 API keys read again: 3")
    assert second.endswith("ERROR   gateway-0 it goes on instance=a tokens=5")
    assert stack[-2:] == ["ValueError: broken", "in two"]


@pytest.mark.parametrize(("level", "lines"), [("debug", 3), ("info", 2), ("error", 1)])
def test_what_is_below_the_level_is_left_out(tmp_path, level, lines):
    assert len([line for line in written(tmp_path, "json", level) if "dualmap.test" in line]) == lines


def test_a_disk_that_stands_still_holds_nobody_up(tmp_path, monkeypatch):
    monkeypatch.setattr(log_setup, "MAX_WAITING_LINES", 10)
    go_on, stuck = threading.Event(), threading.Event()

    class Disk(logging.handlers.RotatingFileHandler):
        def emit(self, record: logging.LogRecord) -> None:
            stuck.set()
            go_on.wait(WAIT_S)
            super().emit(record)

    monkeypatch.setattr(logging.handlers, "RotatingFileHandler", Disk)
    log = ProcessLog(tmp_path, "slow", LogForm("json"))
    try:
        logger.info("the first")
        assert stuck.wait(WAIT_S)
        for number in range(30):
            logger.info("line %d", number)
        assert log.dropped == 20
    finally:
        go_on.set()
        log.close()
    assert len((tmp_path / "slow.log").read_text().splitlines()) == 11


def test_a_file_that_is_full_is_begun_anew_and_the_oldest_goes(tmp_path):
    log = ProcessLog(tmp_path, "gateway-0", LogForm("console", max_bytes=1000, max_files=2))
    for number in range(200):
        logger.info("line %d", number)
    log.close()
    files = sorted(tmp_path.iterdir())
    assert [path.name for path in files] == ["gateway-0.log", "gateway-0.log.1", "gateway-0.log.2"]
    assert all(path.stat().st_size <= 1000 for path in files)
    assert files[0].read_text().splitlines()[-1].endswith("line 199")
