"""The replay process: `python -m dualmap.loadtest.replay.process OPTIONS`, where OPTIONS is a `ReplayOptions` in JSON.

Run as a process of its own, because locust monkey-patches the process that imports it; importing this module does not.
`dualmap.loadtest.cli.replay` starts it.

Exit status: 0 when every request came to its own end (whatever the outcome), 1 when the time limit ended the run, 2
when it could not start, 130 when it was interrupted. A run that began leaves a complete run file, any other none.
"""

import json
import signal
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

_ASK_AGAIN_S = 0.5


class ReplayOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What to replay, where, and how. See `dualmap.loadtest.cli.replay` for the meaning of each."""

    trace: str
    target: str
    out: str
    label: str = "replay"
    note: str = ""
    qps: float | None = None
    speed: float = 1.0
    limit: int | None = None
    max_input_tokens: int | None = None
    api: str = "chat"
    model: str | None = None
    slo_s: float = 5.0
    request_timeout_s: float = 300.0
    time_limit_s: float | None = None


class ReplayError(ValueError):
    """The replay cannot start: a bad option, or a target that does not answer."""


def target_address(target: str) -> tuple[str, int]:
    """Host and port of http://HOST[:PORT]. Raises ReplayError."""
    parts = urlsplit(target)
    try:
        port = parts.port or 80
    except ValueError:
        port = 0
    if parts.scheme != "http" or not parts.hostname or not port or parts.path.strip("/"):
        raise ReplayError(f"target must be http://HOST:PORT, found {target!r}")
    return parts.hostname, port


def first_model(address: tuple[str, int], *, timeout_s: float = 10.0, wait_s: float = 10.0) -> str:
    """The first model of the target's GET /v1/models. Raises ReplayError.

    A gateway that has just started may not know its models yet, so an answer without any is asked again for wait_s.
    """
    where = f"http://{address[0]}:{address[1]}/v1/models"
    give_up_at = time.monotonic() + wait_s
    while True:
        try:
            models = _models(address, timeout_s)
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise ReplayError(f"{where} cannot be asked for a model ({error}); is the target up?") from error
        if models:
            return models[0]
        if time.monotonic() >= give_up_at:
            raise ReplayError(f"{where} names no model; wait for an instance, or give --model")
        time.sleep(_ASK_AGAIN_S)


def _models(address: tuple[str, int], timeout_s: float) -> list[str]:
    from http.client import HTTPConnection, HTTPException  # not at the top: these import ssl before it is patched

    connection = HTTPConnection(*address, timeout=timeout_s)
    try:
        connection.request("GET", "/v1/models")
        return [str(card["id"]) for card in json.loads(connection.getresponse().read())["data"]]
    except HTTPException as error:
        raise OSError(repr(error)) from error
    finally:
        connection.close()


def replay(options: ReplayOptions) -> int:
    """Replay a trace; returns the exit status. Raises ReplayError, TraceError, OSError before the first request."""
    import gevent
    from locust.env import Environment  # monkey-patches, so before anything that imports ssl

    from dualmap.loadtest.replay.open_loop import OpenLoop
    from dualmap.loadtest.replay.pace import due_times, speed_for_qps
    from dualmap.loadtest.replay.progress import Progress
    from dualmap.loadtest.replay.request_body import PATHS
    from dualmap.loadtest.replay.run_file import RunHeader, write_row
    from dualmap.loadtest.traces.sessions import predecessors
    from dualmap.loadtest.traces.trace import read_trace, select

    requests = select(read_trace(options.trace), limit=options.limit, max_input_tokens=options.max_input_tokens)
    if not requests:
        raise ReplayError(f"{options.trace}: no request is left after --limit and --max-input-tokens")
    address = target_address(options.target)
    speed = speed_for_qps(requests, options.qps) if options.qps else options.speed
    duration_s = due_times(requests, speed)[-1]
    header = RunHeader(
        label=options.label,
        note=options.note,
        started_at=datetime.now(UTC).isoformat(timespec="seconds"),
        target=options.target,
        path=PATHS[options.api],
        model=options.model or first_model(address),
        trace=Path(options.trace).name,
        requests=len(requests),
        qps=len(requests) / duration_s if duration_s else float(len(requests)),
        speed=speed,
        slo_s=options.slo_s,
        request_timeout_s=options.request_timeout_s,
        time_limit_s=options.time_limit_s or duration_s + 2 * options.request_timeout_s,
        max_input_tokens=options.max_input_tokens,
        token_ids=options.api == "token-ids",
    )
    environment = Environment()
    runner = environment.create_local_runner()  # listens to the request events and keeps the statistics
    with open(options.out, "wb") as out:
        write_row(out, header)
        loop = OpenLoop(environment, header, requests, predecessors(requests), address, out)
        for signum in (signal.SIGINT, signal.SIGTERM):
            gevent.signal_handler(signum, loop.stop, "interrupted")
        progress = Progress(loop, environment, options.label, header.path, len(requests))
        follower = gevent.spawn(progress.follow)
        environment.events.test_start.fire(environment=environment)
        loop.run()
        environment.events.test_stop.fire(environment=environment)
        follower.kill()
        progress.finish()
    runner.quit()
    return {"": 0, "time limit": 1}.get(loop.stopped_because, 130)


def main() -> int:
    from dualmap.loadtest.traces.trace import TraceError

    try:
        return replay(msgspec.json.decode(sys.argv[1], type=ReplayOptions))
    except (ReplayError, TraceError, OSError, msgspec.ValidationError) as error:
        print(f"dualmap replay: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:  # before the run began
        return 130


if __name__ == "__main__":
    sys.exit(main())
