import signal
import stat
import subprocess
import sys

from dualmap.router.local.owned_folder import is_owned, owned_folder, owned_folders, remove_unowned
from tests.conftest import WAIT_S

PREFIX = "dualmap-test-"
OWNER = """
import sys
from pathlib import Path
from dualmap.router.local.owned_folder import owned_folder
with owned_folder(Path(sys.argv[1]), sys.argv[2]) as folder:
    (folder / "below").mkdir()
    print(folder, flush=True)
    sys.stdin.read()
"""


def test_it_is_for_its_user_alone_and_goes_with_the_block(tmp_path):
    with owned_folder(tmp_path, PREFIX) as folder:
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert owned_folders(tmp_path, PREFIX) == [folder]
        (folder / "file").touch()
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_goes_when_the_next_one_starts(tmp_path):
    command = [sys.executable, "-c", OWNER, str(tmp_path), PREFIX]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as owner:
        try:
            assert owner.stdout.readline()
            (left,) = owned_folders(tmp_path, PREFIX)
            remove_unowned(tmp_path, PREFIX)
            assert left.exists()
        finally:
            owner.send_signal(signal.SIGKILL)
        owner.wait(WAIT_S)
    assert not is_owned(left)
    with owned_folder(tmp_path, PREFIX) as folder:
        assert list(tmp_path.iterdir()) == [folder]


def test_folders_of_others_stay(tmp_path):
    (tmp_path / f"{PREFIX}of-somebody").mkdir()
    remove_unowned(tmp_path, PREFIX)
    assert (tmp_path / f"{PREFIX}of-somebody").exists()
