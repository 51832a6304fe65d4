"""How runs are counted, and the page that compares them."""

from html.parser import HTMLParser
from math import isnan

import pytest

from dualmap.loadtest.replay.run_file import Outcome, RequestRow, RunFileError, RunHeader, read_run, write_row
from dualmap.loadtest.reports.page import page
from dualmap.loadtest.reports.summary import summarise
from dualmap.loadtest.reports.table import text_table
from dualmap.router.cli.main import main as dualmap
from tests.loadtest.made import run_header


def header(label: str = "a", requests: int = 4) -> RunHeader:
    return run_header(label=label, requests=requests)


def ok(index: int, ttft_s: float, prompt: int = 100, cached: int = 0, instance: str = "i-0") -> RequestRow:
    return RequestRow(
        index=index,
        outcome=Outcome.OK,
        scheduled_s=index,
        released_s=index,
        sent_s=index + 0.001,
        ttft_s=ttft_s,
        mean_inter_token_s=0.02,
        e2e_s=ttft_s + 1,
        status=200,
        prompt_tokens=prompt,
        completion_tokens=10,
        cached_tokens=cached,
        instance=instance,
    )


def other(index: int, outcome: Outcome, **fields: object) -> RequestRow:
    return RequestRow(index=index, outcome=outcome, scheduled_s=index, **fields)


FAILURES = [outcome for outcome in Outcome if outcome not in (Outcome.OK, Outcome.SHED)]


@pytest.mark.parametrize("outcome", [outcome for outcome in Outcome if outcome is not Outcome.OK])
def test_whatever_did_not_end_ok_misses_the_objective(outcome):
    summary = summarise(header(requests=2), [ok(0, 1.0), other(1, outcome, ttft_s=0.1)], 5.0)
    assert summary.attainment == 0.5
    assert summary.ttft_p99_s == 1.0
    assert summary.shed + summary.failed == 1


def test_requests_without_a_row_are_unfinished_and_miss():
    summary = summarise(header(requests=4), [ok(0, 1.0)], 5.0)
    assert (summary.requests, summary.failed, summary.unfinished, summary.attainment) == (4, 3, 3, 0.25)


def test_a_first_byte_at_the_objective_is_in_time_and_one_after_it_is_not():
    assert summarise(header(requests=2), [ok(0, 5.0), ok(1, 5.001)], 5.0).attainment == 0.5


def test_load_is_what_had_to_be_computed():
    rows = [ok(0, 1, 1000, 900, "i-0"), ok(1, 1, 400, 100, "i-1")]
    summary = summarise(header(requests=2), rows, 5.0)
    assert summary.load_by_instance == {"i-0": 100, "i-1": 300}
    assert summary.load_skew == 1.5
    assert summary.hit_rate == pytest.approx(1000 / 1400)


def test_a_run_where_nothing_worked_has_no_times_and_still_a_page():
    rows = [other(i, outcome) for i, outcome in enumerate(FAILURES)]
    summary = summarise(header(requests=len(rows)), rows, 5.0)
    assert isnan(summary.ttft_p50_s)
    assert summary.attainment == 0
    assert page([(header(requests=len(rows)), rows)], 5.0).endswith("</html>\n")


class Assets(HTMLParser):
    """Everything a page would load, and whether its tags match."""

    VOID = ("meta",)

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.found += [value for name, value in attrs if name in ("src", "href", "srcset")]
        if tag in ("script", "link", "img", "iframe"):
            self.found.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_stands_alone_and_escapes_what_runs_say():
    rows = [ok(i, 0.5 + i, 100 * i + 1, 50, f"<b>{i % 2}") for i in range(20)]
    runs = [(header("<i>one</i>", 20), rows), (header("two", 20), [*rows[:15], other(15, Outcome.SHED)])]
    html = page(runs, 5.0)
    assets = Assets()
    assets.feed(html)
    assert assets.found == []
    assert assets.open == []
    assert "url(" not in html
    assert "<i>one" not in html
    assert "<b>" not in html
    assert "4 simulated instances" in html


def test_the_table_says_what_to_doubt():
    cut_short = summarise(header("short", 9), [ok(0, 1.0)], 5.0)
    starved = summarise(
        header("starved", 1), [RequestRow(index=0, outcome=Outcome.OK, scheduled_s=0, released_s=0, sent_s=2)], 5.0
    )
    text = text_table([cut_short, starved], 5.0)
    assert "short: the run ended before 8" in text
    assert "starved: the client was short of CPU" in text


def test_the_command_compares_files_and_writes_the_page(tmp_path, capsys):
    for name in ("one", "two"):
        with open(tmp_path / f"{name}.jsonl", "wb") as file:
            write_row(file, header(name, 1))
            write_row(file, ok(0, 1.0))
    page_path = tmp_path / "deep" / "r.html"
    args = [str(tmp_path / "one.jsonl"), str(tmp_path / "two.jsonl"), "--html", str(page_path)]
    assert dualmap(["report", *args]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in ("one", "two", "100.0%"))
    assert page_path.read_text().startswith("<!doctype html>")


@pytest.mark.parametrize(
    "content", ["", "{}\n", "nonsense\n", '{"row":"request","index":0,"outcome":"ok","scheduled_s":0}\n']
)
def test_a_file_that_is_no_run_is_named(tmp_path, content, capsys):
    path = tmp_path / "x.jsonl"
    path.write_text(content)
    with pytest.raises(RunFileError, match=r"x\.jsonl"):
        read_run(path)
    assert dualmap(["report", str(path)]) == 2
    assert "x.jsonl" in capsys.readouterr().err
