"""Folders that go with the process that made them: at its end, or, where it was killed, when the next one starts."""

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

REMOVE_TRIES, REMOVE_AGAIN_S = 40, 0.05
OWNED = ".owned"  # a file that tells such a folder from others of its name


@contextmanager
def owned_folder(parent: Path, prefix: str) -> Iterator[Path]:
    """For this user alone. Those of the same prefix that nobody owns any more are removed. Raises OSError."""
    remove_unowned(parent, prefix)
    hidden = Path(tempfile.mkdtemp(prefix=f".{prefix}", dir=parent))
    (hidden / OWNED).touch()
    lock = os.open(hidden, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        folder = hidden.rename(parent / hidden.name.removeprefix("."))  # nobody sees it before it is owned
        try:
            yield folder
        finally:
            _remove(folder)
    finally:
        os.close(lock)


def remove_unowned(parent: Path, prefix: str) -> None:
    for folder in _of_this_user(parent, prefix):
        if not is_owned(folder):
            _remove(folder)


def owned_folders(parent: Path, prefix: str) -> list[Path]:
    """In no order that means anything."""
    return [folder for folder in _of_this_user(parent, prefix) if is_owned(folder)]


def is_owned(folder: Path) -> bool:
    """Whether a living process owns it. A lock ends with its process, whatever that died of."""
    try:
        lock = os.open(folder, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # a file system without locks: nothing is known
        return True
    finally:
        os.close(lock)
    return False


def _remove(folder: Path) -> None:
    """Processes that are about to end may still write there. What stays is known as ours, for the next start."""
    for _ in range(REMOVE_TRIES):
        for path in folder.iterdir() if folder.exists() else ():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            elif path.name != OWNED:
                with suppress(OSError):
                    path.unlink()
        if [path.name for path in folder.iterdir()] == [OWNED]:
            shutil.rmtree(folder, ignore_errors=True)
            return
        time.sleep(REMOVE_AGAIN_S)


def _of_this_user(parent: Path, prefix: str) -> Iterator[Path]:
    for folder in sorted(parent.glob(f"{prefix}*")):
        with suppress(OSError):
            if folder.stat().st_uid == os.getuid() and (folder / OWNED).exists():
                yield folder
