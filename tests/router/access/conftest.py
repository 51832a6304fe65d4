"""A gateway that asks for keys."""

import time
from pathlib import Path

import pytest
import yaml

from dualmap.router.access.access import Access
from dualmap.router.access.api_keys import hash_key
from dualmap.scheduler.fleet.endpoint import Endpoint
from tests.router.conftest import Instance

A, B, ANY = "dm-key-of-a", "dm-key-of-b", "dm-key-of-a-proxy"
CARDS = ({"id": "tiny"}, {"id": "secret-model"})


def write_keys(path: Path, **of_b: object) -> Path:
    keys = [
        {"sha256": hash_key(A.encode()), "tenant": "a"},
        {"sha256": hash_key(B.encode()), "tenant": "b", **of_b},
        {"sha256": hash_key(ANY.encode())},
    ]
    path.write_text(yaml.safe_dump({"keys": keys}))
    return path


def bearing(key: str) -> str:
    return f"authorization: Bearer {key}\r\n"


@pytest.fixture
def keyed(fleet, tmp_path):
    """A gateway that asks for keys; those of b are as given. Its core's clock is the real one."""

    def make(*scripts, isolate: bool = False, instance_key: str | None = None, **of_b):
        path = write_keys(tmp_path / "keys.yaml", **of_b)
        about = {"access": Access(path, time.monotonic), "isolate_tenants": isolate}
        if instance_key is not None:
            (tmp_path / "instance.key").write_text(instance_key + "\n")
            scripts = (Instance(endpoint=Endpoint("127.0.0.1", key_file=str(tmp_path / "instance.key"))),)
        return fleet(*scripts, cards=CARDS, about=about)

    return make
