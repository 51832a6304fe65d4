"""Files that operators write: whatever they hold, there is a configuration, or an error that says what is wrong."""

import atexit
import os
import tempfile
from contextlib import suppress
from pathlib import Path

from dualmap.router.access.api_keys import ApiKeysError, load_api_keys
from dualmap.router.config.load import ConfigFileError, load_config
from dualmap.router.http.instance_key import WrongKeyError, read_key
from tests.fuzz.target import Target

_FILE = Path(tempfile.mkstemp(prefix="dualmap-fuzz-")[1])
atexit.register(_FILE.unlink, missing_ok=True)


def _written(data: bytes) -> Path:
    with open(_FILE, "wb") as file:
        file.write(data)
    return _FILE


def check_config(data: bytes) -> None:
    with suppress(ConfigFileError):
        load_config(_written(data), {}, elsewhere=True)


def check_keys(data: bytes) -> None:
    path = _written(data)
    with suppress(ApiKeysError):
        load_api_keys(path)
    with suppress(WrongKeyError):
        key = read_key(os.fspath(path))
        assert key.isascii()
        assert b"\n" not in key


CONFIG = Target("config", check_config, most_bytes=1024)
KEYS = Target("keys", check_keys, most_bytes=1024)
