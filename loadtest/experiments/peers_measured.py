"""What a run of the comparison with other routers came to, and the table of all."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import msgspec

from dualmap.loadtest.replay.run_file import Outcome, RequestRow
from dualmap.loadtest.traces.describe import quantile

OURS = "dualmap"


@dataclass(frozen=True, slots=True)
class Answer:
    """What a client saw of one request. inter_token_s: None for answers of one token."""

    ok: bool
    ttft_s: float | None = None
    e2e_s: float | None = None
    inter_token_s: float | None = None


@dataclass(frozen=True, slots=True)
class Objectives:
    """Seconds: of the first token, and of each that follows, on average over the answer."""

    ttft_s: float
    tpot_s: float

    def first_in_time(self, answer: Answer) -> bool:
        return answer.ok and answer.ttft_s is not None and answer.ttft_s <= self.ttft_s

    def in_time(self, answer: Answer) -> bool:
        return self.first_in_time(answer) and (answer.inter_token_s or 0.0) <= self.tpot_s


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """One run; kept as a JSON file.

    settings: of the router: "recommended", "default", or what was set. client: "replay" or "AIPerf". version: the
        router's name and version.
    rate: requests a second, over the time of arrivals; requests: that were sent or should have been.
    attained, attained_both: shares of the requests within the objective of the first token, within both.
    Times: seconds, of the requests that ended well. cached: share of the prompt tokens, by the servers' own counters.
    own_goodput: requests a second within both objectives as AIPerf tells it; nothing for other clients.
    send_lag_p99_s: of our client, release to last byte sent. load: the machine's, 1 minute, at the end; steal: share
        of the machine's time that others had, over the run. router_cpu_s: of the router's processes.
    """

    work: str
    rate: float
    router: str
    settings: str
    client: str
    version: str
    started_at: str
    requests: int
    failed: int
    attained: float
    attained_both: float
    ttft_p50_s: float
    ttft_p90_s: float
    ttft_p99_s: float
    e2e_p50_s: float
    e2e_p90_s: float
    inter_token_s: float
    cached: float
    load: float
    steal: float
    took_s: float
    router_cpu_s: float
    own_goodput: float | None = None
    send_lag_p99_s: float | None = None

    @property
    def goodput(self) -> float:
        """Requests a second with the first token in time."""
        return self.attained * self.rate

    @property
    def name(self) -> str:
        return f"{self.version} ({self.settings})" if self.settings else self.version


def answers_of(rows: Iterable[RequestRow]) -> list[Answer]:
    return [Answer(row.outcome is Outcome.OK, row.ttft_s, row.e2e_s, row.mean_inter_token_s) for row in rows]


def shares_and_times(answers: Sequence[Answer], requests: int, objectives: Objectives) -> dict[str, float]:
    """Fields of Measured. requests: those without an answer have failed."""
    good = [answer for answer in answers if answer.ok]
    ttfts = sorted(a.ttft_s for a in good if a.ttft_s is not None)
    e2es = sorted(a.e2e_s for a in good if a.e2e_s is not None)
    gaps = [a.inter_token_s for a in good if a.inter_token_s is not None]
    return {
        "failed": requests - len(good),
        "attained": sum(map(objectives.first_in_time, answers)) / requests,
        "attained_both": sum(map(objectives.in_time, answers)) / requests,
        "ttft_p50_s": quantile(ttfts, 0.5),
        "ttft_p90_s": quantile(ttfts, 0.9),
        "ttft_p99_s": quantile(ttfts, 0.99),
        "e2e_p50_s": quantile(e2es, 0.5),
        "e2e_p90_s": quantile(e2es, 0.9),
        "inter_token_s": sum(gaps) / len(gaps) if gaps else float("nan"),
    }


COLUMNS = (
    *("router", "offered", "goodput", "in time", "both in time", "TTFT P50", "P90", "P99", "E2E P50", "P90"),
    *("a token", "cached", "failed"),
)


def table(runs: Sequence[Measured]) -> list[str]:
    """In Markdown, in the order of the runs; the best goodput of each rate in bold."""
    lines = [_line(COLUMNS), "|---" * len(COLUMNS) + "|"]
    best = {rate: max(r.goodput for r in runs if r.rate == rate) for rate in {r.rate for r in runs}}
    for run in sorted(runs, key=lambda r: r.rate):
        goodput = f"{run.goodput:.2f}/s"
        lines.append(
            _line(
                (
                    run.name,
                    f"{run.rate:g}/s",
                    f"**{goodput}**" if run.goodput == best[run.rate] else goodput,
                    f"{run.attained:.1%}",
                    f"{run.attained_both:.1%}",
                    *(f"{s:.2f} s" for s in (run.ttft_p50_s, run.ttft_p90_s, run.ttft_p99_s)),
                    *(f"{s:.2f} s" for s in (run.e2e_p50_s, run.e2e_p90_s)),
                    f"{run.inter_token_s * 1000:.1f} ms",
                    f"{run.cached:.1%}",
                    str(run.failed),
                )
            )
        )
    return lines


def against_best_peer(runs: Sequence[Measured]) -> list[str]:
    """At each rate, ours in its default settings over the best of the others: goodput by either measure, medians."""
    columns = ("offered", "best peer", "goodput", "with both objectives", "TTFT P50", "P90", "E2E P50", "a token")
    lines = [_line(columns), "|---" * len(columns) + "|"]
    for rate in sorted({r.rate for r in runs}):
        ours = next((r for r in runs if r.rate == rate and r.router == OURS and not r.settings), None)
        others = [r for r in runs if r.rate == rate and r.router != OURS]
        if ours is None or not others:
            continue
        best = max(others, key=lambda r: (r.attained, r.attained_both))
        both = max(r.attained_both for r in others)
        lines.append(
            _line(
                (
                    f"{rate:g}/s",
                    f"{best.name}, {best.attained:.1%}",
                    _ratio(ours.attained, best.attained),
                    _ratio(ours.attained_both, both),
                    _ratio(ours.ttft_p50_s, min(r.ttft_p50_s for r in others)),
                    _ratio(ours.ttft_p90_s, min(r.ttft_p90_s for r in others)),
                    _ratio(ours.e2e_p50_s, min(r.e2e_p50_s for r in others)),
                    _ratio(ours.inter_token_s, min(r.inter_token_s for r in others)),
                )
            )
        )
    return lines


def _ratio(ours: float, theirs: float) -> str:
    return f"{ours / theirs:.2f}" if theirs else "-"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
