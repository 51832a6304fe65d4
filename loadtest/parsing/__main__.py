"""The same raw requests to vLLM's HTTP server alone, and to the gateway and other proxies in front of it.

    python -m dualmap.loadtest.parsing --python .venv-vllm/bin/python --out runs/parsing

Prints, for each reader, how many cases it kept to the standards in, was stricter than they ask, or broke a MUST; and in
how many the server behind got something else than it reads by itself. Details are in OUT/cases.jsonl.
"""

import argparse
import asyncio
import json
import sys
from collections import Counter
from pathlib import Path

from dualmap.loadtest.overhead.measured_proxy import ProxyError
from dualmap.loadtest.parsing.case import FREE, Case
from dualmap.loadtest.parsing.framing_cases import framing_cases
from dualmap.loadtest.parsing.head_cases import head_cases
from dualmap.loadtest.parsing.judge import Judgement, differs, judge
from dualmap.loadtest.parsing.send import Outcome, send_all
from dualmap.loadtest.parsing.servers import behind, readers, versions
from dualmap.loadtest.reports.aligned_rows import aligned

ALONE = "uvicorn"
GATEWAY = "gateway"
KNOWN = ("line: b'GET /v1/t@@ RTSP/1.0\\r\\n'",)  # httptools takes it for HTTP/1.0, and does not tell


def main() -> int:
    """1 if the gateway reads a case against the standards, or as the server behind does not where they say nothing."""
    parser = argparse.ArgumentParser(prog="python -m dualmap.loadtest.parsing", description=__doc__.partition("\n")[0])
    parser.add_argument("--python", type=Path, default=Path(sys.executable), help="has uvicorn and httptools")
    parser.add_argument("--out", type=Path, default=Path("runs/parsing"), metavar="DIR", help="(runs/parsing)")
    parser.add_argument("--only", default="", metavar="FAMILY", help="of cases")
    parser.add_argument("--readers", default="", metavar="NAME,NAME", help="of the proxies (all that are installed)")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    cases = [case for case in (*framing_cases(), *head_cases()) if args.only in case.family]
    chosen = args.readers.split(",") if args.readers else None
    try:
        with behind(args.python, args.out.resolve()) as server:
            outcomes = {ALONE: asyncio.run(send_all(cases, server, server))}
            for name, proxy in readers(server, args.out.resolve()).items():
                if chosen is None or name in chosen:
                    with proxy as port:
                        outcomes[name] = asyncio.run(send_all(cases, port, server))
    except ProxyError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    _write(args.out / "cases.jsonl", cases, outcomes)
    print(", ".join(f"{name} {version}" for name, version in versions(args.python).items()))
    print(f"{len(cases)} cases: {', '.join(f'{n} {f}' for f, n in Counter(case.family for case in cases).items())}\n")
    print("\n".join(aligned(_table(cases, outcomes))))
    faults = _faults(cases, outcomes) if GATEWAY in outcomes else []
    if faults:
        print("\nthe gateway's faults:\n" + "\n".join(faults))
    return 1 if set(faults).difference(KNOWN) else 0


def _table(cases: list[Case], outcomes: dict[str, list[Outcome]]) -> list[tuple[str, ...]]:
    rows = [("", *Judgement, "the server got something else", "refused", "requests seen")]
    for name, list_of in outcomes.items():
        judged = Counter(judge(case, outcome) for case, outcome in zip(cases, list_of, strict=True))
        other = sum(differs(outcome, alone) for outcome, alone in zip(list_of, outcomes[ALONE], strict=True))
        refused = sum(not outcome.seen for outcome in list_of)
        seen = sum(len(outcome.seen) for outcome in list_of)
        rows.append((name, *(str(judged[each]) for each in Judgement), str(other), str(refused), str(seen)))
    return rows


def _faults(cases: list[Case], outcomes: dict[str, list[Outcome]]) -> list[str]:
    """Of the gateway."""
    return [
        f"{case.family}: {case.name}"
        for case, outcome, alone in zip(cases, outcomes[GATEWAY], outcomes[ALONE], strict=True)
        if judge(case, outcome) is Judgement.BROKEN or (case.rule is FREE and differs(outcome, alone))
    ]


def _write(path: Path, cases: list[Case], outcomes: dict[str, list[Outcome]]) -> None:
    with path.open("w") as file:
        for number, case in enumerate(cases):
            row = {
                "family": case.family,
                "name": case.name,
                "rule": case.rule.name,
                "raw": repr(case.sent(number)[:300]),
            }
            for name, list_of in outcomes.items():
                outcome = list_of[number]
                row[name] = {  # type: ignore[assignment]
                    "statuses": outcome.statuses,
                    "seen": [(seen.method, seen.target[:200], seen.body[:200]) for seen in outcome.seen],
                    "judged": judge(case, outcome),
                    "differs": differs(outcome, outcomes[ALONE][number]),
                }
            file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    sys.exit(main())
