"""Runs a server and sees to it that nothing of it outlives its owner.

    python -m dualmap.instances.server.keeper GRACE_S COMMAND...

The owner holds the other end of standard input. When that closes, because the owner wants the server stopped or has
died in whatever way, the server's whole process group gets SIGTERM and, after the grace time, SIGKILL. vLLM needs
this: its engine runs on when its API process is killed.

Should the keeper itself be killed, the kernel sends the server SIGTERM.

The keeper leaves its owner's process tree, since Ray kills the children of a worker that exits. So it says how the
server does on standard output, which the server shares: first `pid N`, last `exit CODE`.
"""

import ctypes
import os
import selectors
import signal
import subprocess
import sys
import time

PR_SET_PDEATHSIG = 1  # see prctl(2)
POLL_S = 0.05  # how soon an exit of the server is noticed


def keep(command: list[str], grace_s: float) -> int:
    """Returns the server's exit code, negative for a signal, once its process group is gone. Raises OSError."""
    server = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=_begin_server,  # safe: this process has no threads
    )
    with selectors.DefaultSelector() as selector:
        selector.register(sys.stdin.fileno(), selectors.EVENT_READ)
        while server.poll() is None:
            if selector.select(POLL_S) and not os.read(sys.stdin.fileno(), 1024):
                break
    _signal_group(server.pid, signal.SIGTERM)
    deadline = time.monotonic() + grace_s
    while time.monotonic() < deadline and _signal_group(server.pid, 0):
        server.poll()  # reaps it: until then its group is not empty
        time.sleep(POLL_S)
    _signal_group(server.pid, signal.SIGKILL)
    return server.wait()


def _begin_server() -> None:
    """In the server's process: the server ends with the keeper, and its id is said before anything of its own."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    os.write(sys.stdout.fileno(), b"pid %d\n" % os.getpid())


def _signal_group(group: int, number: int) -> bool:
    """False if the group is gone."""
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return False
    return True


def main() -> None:
    if os.fork():
        os._exit(0)
    os.setsid()  # away from the terminal: a Ctrl-C there is the owner's to act on
    try:
        code = keep(sys.argv[2:], float(sys.argv[1]))
    except OSError as error:
        print(error, file=sys.stderr)
        code = 127  # as a shell says of a command that cannot be run
    try:
        print(f"exit {code}", flush=True)
    except BrokenPipeError:  # the owner is gone
        os._exit(0)


if __name__ == "__main__":
    main()
