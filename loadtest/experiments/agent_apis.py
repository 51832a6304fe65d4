"""The same agents over three APIs: `python -m dualmap.loadtest.experiments.agent_apis`.

Sessions of agents over /v1/chat/completions, /v1/responses and /v1/messages, each API against a deployment of its own
with simulated instances. Each session sends its next turn when the one before has been answered. What instances found
cached, and how many of them served a session.
"""

import argparse
import http.client
import json
import os
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

from dualmap.loadtest.experiments.deployed import Deployed, DeploymentError, deployed
from dualmap.loadtest.experiments.program import run_as_program
from dualmap.loadtest.traces.agent_sessions import AGENT_APIS, AgentSession, AgentShape, agent_sessions
from dualmap.router.apis.usage import peek_usage

MODEL = "simulated"
ANSWER_TOKENS = 40
START_GAP_S = 0.5  # between the starts of two sessions
TIMEOUT_S = 120.0


@dataclass
class Found:
    """What a run found. places: instances that served each session."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    requests: int = 0
    failed: int = 0
    places: list[int] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--sessions", type=int, default=24, metavar="N", help="of agents (24)")
    parser.add_argument("--turns", type=int, default=10, metavar="N", help="of each session (10)")
    parser.add_argument("--instances", type=int, default=4, metavar="N", help="that are simulated (4)")
    parser.add_argument("--out", type=Path, default=Path("runs/agents"), metavar="DIR", help="for logs (runs/agents)")


def run(args: argparse.Namespace) -> int:
    """0 no request failed; 1 some did, or it could not run."""
    args.out.mkdir(parents=True, exist_ok=True)
    sessions = agent_sessions(args.sessions, AgentShape(turns=args.turns))
    print(f"{date.today().isoformat()}, {os.cpu_count()} cores, {args.instances} simulated instances")
    print(f"{args.sessions} sessions of {args.turns} turns\n")
    print(f"{'':24}{'cached':>8}{'instances a session':>22}{'failed':>8}")
    failed = 0
    try:
        for path in AGENT_APIS:
            with deployed({"simulate": {"count": args.instances, "model": MODEL}}, args.out) as deployment:
                found = _run(deployment, path, sessions)
            failed += found.failed
            share = found.cached_tokens / max(1, found.prompt_tokens)
            places = sum(found.places) / len(found.places)
            print(f"{path:24}{share:8.1%}{places:22.2f}{found.failed:8}", flush=True)
    except DeploymentError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 1 if failed else 0


def _run(deployment: Deployed, path: str, sessions: list[AgentSession]) -> Found:
    found = Found()
    with ThreadPoolExecutor(len(sessions)) as pool:
        for session in sessions:
            pool.submit(_play, deployment.port, path, session, found)
            time.sleep(START_GAP_S)
    return found


def _play(port: int, path: str, session: AgentSession, found: Found) -> None:
    """One session, a turn after the other."""
    places: Counter[str | None] = Counter()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
    for body in AGENT_APIS[path](session, MODEL, ANSWER_TOKENS):
        try:
            connection.request("POST", path, json.dumps(body), {"content-type": "application/json"})
            answer = connection.getresponse()
            usage = peek_usage(answer.read())
            ok = answer.status == http.client.OK and usage.prompt_tokens is not None
        except (OSError, http.client.HTTPException):
            ok = False
            connection.close()
        with found.lock:
            found.requests += 1
            if ok:
                found.prompt_tokens += usage.prompt_tokens or 0
                found.cached_tokens += usage.cached_tokens or 0
                places[answer.getheader("x-dualmap-instance")] += 1
            else:
                found.failed += 1
    connection.close()
    with found.lock:
        found.places.append(len(places))


if __name__ == "__main__":
    sys.exit(run_as_program(add_arguments, run))
