"""A folder of logs for each start, so that those of several starts, or of several deployments, do not mix."""

import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dualmap.router.local.owned_folder import is_owned

LATEST = "latest"  # a link
NAMED = "[0-9]" * 8 + "-" + "[0-9]" * 6 + "-*"


@contextmanager
def start_folder(log_dir: Path, name: str, most: int) -> Iterator[Path]:
    """LOG_DIR/[NAME/]DATE-TIME-PID, and the link `latest` beside it. Of those before that no living process has, the
    newest stay, `most` in all. Raises OSError."""
    parent = log_dir.absolute() / name
    folder = parent / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
    folder.mkdir(parents=True)
    lock = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(lock, fcntl.LOCK_EX)
        _link(parent / LATEST, folder.name)
        before = sorted(path for path in parent.glob(NAMED) if path != folder)
        for old in before[: max(0, len(before) + 1 - most)]:
            if not is_owned(old):
                shutil.rmtree(old, ignore_errors=True)
        yield folder
    finally:
        os.close(lock)


def _link(link: Path, target: str) -> None:
    with suppress(OSError):  # a file system without links
        new = link.with_name(f".{LATEST}-{os.getpid()}")
        new.unlink(missing_ok=True)
        new.symlink_to(target)
        new.replace(link)
