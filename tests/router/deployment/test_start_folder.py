import fcntl
import os

import pytest

from dualmap.router.deployment.start_folder import LATEST, start_folder


def earlier(parent, count: int):
    found = [parent / f"20260101-00000{number}-1" for number in range(count)]
    for folder in found:
        folder.mkdir(parents=True)
    return found


@pytest.mark.parametrize(("name", "place"), [("", "logs"), ("chat", "logs/chat")])
def test_each_start_has_a_folder_of_its_own_and_a_link_leads_to_the_last(tmp_path, name, place):
    with start_folder(tmp_path / "logs", name, 10) as folder:
        assert folder.parent == tmp_path / place
        assert (tmp_path / place / LATEST).resolve() == folder
    assert folder.exists()


def test_the_oldest_go_that_are_too_many_but_none_of_a_living_process_and_nothing_else(tmp_path):
    folders = earlier(tmp_path, 5)
    other = tmp_path / "kept-by-somebody"
    other.mkdir()
    lock = os.open(folders[0], os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        with start_folder(tmp_path, "", 3) as folder:
            left = {path for path in tmp_path.iterdir() if not path.is_symlink()}
    finally:
        os.close(lock)
    assert left == {folder, folders[0], *folders[3:], other}
